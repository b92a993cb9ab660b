"""TuningJobs the API server must refuse, and changes of good ones; sent to a real one by tests/integration/crds."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.unit.crds.bad_objects import Bad

GOOD_TUNING: dict[str, Any] = {
    "apiVersion": "trimtab.dev/v1alpha1",
    "kind": "TuningJob",
    "metadata": {"name": "search", "namespace": "default"},
    "spec": {
        "target": {"kind": "engine", "engine": "openvino", "model": "/models/tiny-random-llama.gguf"},
        "objectives": [{"metric": "output_tokens_per_s"}],
    },
}
_bad = partial(Bad, good=GOOD_TUNING)
_COMMAND = {"kind": "command", "command": ["measure", "{a}"], "image": "registry.example/measure:1"}
_INT = {"kind": "int", "name": "a", "low": 1, "high": 9}
_FLOAT = {"kind": "float", "name": "b", "low": 0.1, "high": 0.9}
_CHOICE = {"kind": "choice", "name": "c", "values": [1, "x", True, 2.5]}


def _space(*parameters: dict[str, Any]) -> dict[str, Any]:
    return {"spec.space": {"parameters": list(parameters)}}


def _load(**load: Any) -> dict[str, Any]:
    return {"spec.load": {"input": {"tokens": 64}, "output": {"tokens": 8}, **load}}


P = "spec.space.parameters[0]"
BAD_TUNING: tuple[Bad, ...] = (
    _bad("dotted job name", {"metadata.name": "a.b"}, "", "at most 63 characters and no dots"),
    _bad("long job name", {"metadata.name": "a" * 64}, "", "at most 63 characters and no dots"),
    _bad("unknown target", {"spec.target.kind": "model"}, "spec.target.kind", "supported values"),
    _bad("engine without a model", {"spec.target.model": None}, "spec.target.kind", "engine needs engine, model"),
    _bad("engine with a command", {"spec.target.command": ["x"]}, "spec.target.kind", "engine needs engine, model"),
    _bad("command with a model", {"spec.target": {**_COMMAND, "model": "m"}}, "spec.target.kind", "command needs command"),
    _bad("deployment without a name", {"spec.target": {"kind": "deployment", "namespace": "a"}}, "spec.target.kind",
         "deployment needs name"),
    _bad("nothing to optimise", {"spec.objectives": []}, "spec.objectives", "at least 1 items"),
    _bad("unknown direction", {"spec.objectives": [{"metric": "a", "direction": "up"}]}, "spec.objectives[0].direction",
         "supported values"),
    _bad("limit without a bound", {"spec.limits": [{"metric": "a"}]}, "spec.limits[0].atMost", "exactly one of atMost"),
    _bad("limit with two bounds", {"spec.limits": [{"metric": "a", "atMost": 1, "atLeast": 0}]}, "spec.limits[0].atMost",
         "exactly one of atMost"),
    _bad("empty space", _space(), "spec.space.parameters", "at least 1 items"),
    _bad("range without an end", _space({"kind": "int", "name": "a", "low": 1}), f"{P}.kind", "int needs name, low, high"),
    _bad("step of real numbers", _space({**_FLOAT, "step": 1}), f"{P}.kind", "float needs name, low, high"),
    _bad("range of a choice", _space({**_CHOICE, "low": 1}), f"{P}.kind", "choice needs name"),
    _bad("inverted range", _space({**_INT, "low": 10}), f"{P}.low", "low must not exceed high"),
    _bad("log range from 0", _space({**_FLOAT, "low": 0, "log": True}), f"{P}.log", "a log range begins above 0"),
    _bad("log range with a step", _space({**_INT, "step": 2, "log": True}), f"{P}.step", "a log range has no step"),
    _bad("a name twice", _space(_INT, {**_FLOAT, "name": "a"}), "spec.space.parameters", "two parameters have the same name"),
    _bad("a name that is none", _space({**_INT, "name": "a-b"}), f"{P}.name", "should match"),
    _bad("budget of nothing", {"spec.budget.trials": 0}, "spec.budget.trials", "greater than or equal to 1"),
    _bad("budget without end", {"spec.budget.trials": 10_001}, "spec.budget.trials", "less than or equal to 10000"),
    _bad("no time", {"spec.budget.hours": 0}, "spec.budget.hours", "greater than 0"),
    _bad("fewer runs than the fewest", {"spec.measuring": {"runsMin": 7, "runsMax": 3}}, "spec.measuring.runsMin",
         "runsMin must not exceed runsMax"),
    _bad("clients without a number", _load(arrivals="closed"), "spec.load.arrivals", "closed arrivals need concurrency"),
    _bad("rate beside clients", _load(arrivals="closed", concurrency=4, ratePerSecond=2), "spec.load.ratePerSecond",
         "ratePerSecond and concurrency do not go together"),
    _bad("prefix of more than the prompt", _load(ratePerSecond=2, sharedPrefixTokens=65), "spec.load.sharedPrefixTokens",
         "a shared prefix is part of the prompt"),
    _bad("SLO of nothing", {"spec.slo": {"ttftMs": 0}}, "spec.slo.ttftMs", "greater than 0"),
    _bad("absurd parallelism", {"spec.parallel": 65}, "spec.parallel", "less than or equal to 64"),
)  # fmt: skip

UNKNOWN_TUNING_FIELDS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"spec.bugdet": {"trials": 3}}, "spec.bugdet"),
    ({"spec.target.modle": "m"}, "spec.target.modle"),
)

GOOD_TUNINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the engine's own knobs", {}),
    ("a command", {"spec.target": _COMMAND, **_space(_INT)}),
    ("a deployment", {"spec.target": {"kind": "deployment", "name": "chat", "namespace": "default"}}),
    ("a deployment of the job's own namespace", {"spec.target": {"kind": "deployment", "name": "chat"}}),
    ("every kind of parameter", _space(_INT, _FLOAT, _CHOICE, {**_INT, "name": "d", "when": [{"parameter": "c", "values": [1]}]})),
    ("rules and margins", {**_space(_INT), "spec.space.rules": [{"expression": "a > 1", "message": "too few"}],
     "spec.space.margins": [{"expression": "9 - a", "slack": 0.5, "message": "memory"}], "spec.space.fixed": {"z": "on"}}),
    ("limits and an SLO", {"spec.limits": [{"metric": "ttft_p90_ms", "atMost": 200}], "spec.slo": {"tpotMs": 30}}),
    ("open loop", _load(ratePerSecond=2.5, arrivals="gamma", cv=2)),
    ("suspended, on pools", {"spec.suspend": True, "spec.pods": {"pools": ["a"], "serviceAccount": "runner"}}),
    ("a baseline of all kinds", {"spec.baseline": {"a": 1, "b": 0.5, "c": True, "d": "fp8"}}),
)  # fmt: skip

# Changes of a job that exists: (changes, field, words).
BAD_CHANGES: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"spec.target.model": "/models/other.gguf"}, "spec.target", "cannot be changed once the job exists"),
    (_space(_INT, _FLOAT, {**_CHOICE, "values": [1, "x", True, 3.5]}), "spec.space", "cannot be changed once"),
    ({"spec.space": None}, "spec.space", "cannot be changed once the job exists"),
    ({"spec.objectives": [{"metric": "ttft_p90_ms", "direction": "minimize"}]}, "spec.objectives", "cannot be changed"),
    ({"spec.limits": [{"metric": "ttft_p90_ms", "atMost": 200}]}, "spec.limits", "cannot be changed once the job exists"),
    ({"spec.slo": {"ttftMs": 200}}, "spec.slo", "cannot be changed once the job exists"),
    ({"spec.load": {"arrivals": "closed", "concurrency": 9, "input": {"tokens": 256}, "output": {"tokens": 64}}},
     "spec.load", "cannot be changed once the job exists"),
    ({"spec.measuring.requests": 7}, "spec.measuring", "cannot be changed once the job exists"),
    ({"spec.baseline": {"a": 2}}, "spec.baseline", "cannot be changed once the job exists"),
    ({"spec.baseline": None}, "spec.baseline", "cannot be changed once the job exists"),
    ({"spec.mayChangeOutput": ["kvCache"]}, "spec.mayChangeOutput", "cannot be changed once the job exists"),
    ({"spec.startWith": [{"setting": {"a": 2}}]}, "spec.startWith", "cannot be changed once the job exists"),
    ({"spec.warmStart": False}, "spec.warmStart", "cannot be changed once the job exists"),
    ({"spec.sampler": "random"}, "spec.sampler", "cannot be changed once the job exists"),
    ({"spec.seed": 1}, "spec.seed", "cannot be changed once the job exists"),
    ({"spec.parallel": 2}, "spec.parallel", "cannot be changed once the job exists"),
    ({"spec.pods": {"serviceAccount": "other"}}, "spec.pods", "cannot be changed once the job exists"),
    ({"spec.budget.trials": 5}, "spec.budget.trials", "can only be raised"),
    ({"spec.budget.hours": 2}, "spec.budget.hours", "cannot be changed once the job exists"),
)  # fmt: skip
GOOD_CHANGES: tuple[dict[str, Any], ...] = ({"spec.suspend": True}, {"spec.budget.trials": 80})
# What the changes are made to.
BEFORE_CHANGES: dict[str, Any] = {
    **_space(_INT, _FLOAT, _CHOICE),
    "spec.baseline": {"a": 1},
    "spec.budget": {"trials": 40},
}
