"""Tuning jobs that cannot be: what is wrong, the field that is named, words of the answer. REST and command line alike."""

from __future__ import annotations

from typing import Any

SPACE = {"parameters": [{"kind": "int", "name": "maxNumSeqs", "low": 1, "high": 16}]}
GOOD: dict[str, Any] = {
    "target": {"kind": "engine", "engine": "vllm", "model": "llama-3.1-8b"},
    "space": SPACE,
    "objectives": [{"metric": "output_tokens_per_s"}],
}
_H100 = {"kind": "engine", "engine": "vllm", "accelerator": "h100-sxm-80gb"}


def _parameter(**changes: Any) -> dict[str, Any]:
    return {"parameters": [{"kind": "int", "name": "maxNumSeqs", "low": 1, "high": 16} | changes]}


# Refused by the schema: REST names the field inside the body, the command line the field alone.
BY_SCHEMA: list[tuple[dict[str, Any], str]] = [
    ({"budget": {"trials": 0}}, "budget.trials"),
    ({"budget": {"hours": 0}}, "budget.hours"),
    ({"slo": {"ttftMs": -1}}, "slo.ttftMs"),
    ({"target": {"kind": "engine", "engine": "vlm", "model": "m"}}, "target.engine"),
    ({"space": _parameter(low=20)}, "space.parameters.0"),
    ({"space": {"parameters": []}}, "space.parameters"),
    ({"measuring": {"runsMin": 5, "runsMax": 2}}, "measuring"),
    ({"measuring": {"shortShare": 25}}, "measuring.shortShare"),
    ({"wrong": 1}, "wrong"),
]
# Refused by what is known of engines, models and metrics, before anything is measured.
BY_FACTS: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"space": _parameter(name="maxNumSeq")}, "space.parameters[0].name", ["maxNumSeqs"]),
    ({"space": _parameter(low=-4)}, "space.parameters[0].low", ["1 to"]),
    ({"space": SPACE | {"fixed": {"blockSiz": 16}}}, "space.fixed.blockSiz", ["blockSize"]),
    ({"space": SPACE | {"rules": [{"expression": "maxNumSeqs < 1", "message": "m"}]}}, "space.rules", []),
    # One sequence at a time is decided elsewhere while splitting is on, which it is unless told.
    ({"target": {"kind": "engine", "engine": "openvino", "model": "m"}}, "space.maxNumSeqs", ["dynamicSplitFuse: false", "no setting of the space works"]),
    ({"target": _H100 | {"model": "llama-3.1-8b", "shape": {"tensorParalel": 2}}}, "target.shape.tensorParalel", ["tensorParallel"]),
    ({"target": _H100 | {"model": "llama-3.1-8b", "accelerator": "h1000"}}, "target.accelerator", []),
    # With a space of one's own and with the engine's: bytes of the model and of the device.
    ({"target": _H100 | {"model": "llama-3.1-405b"}}, "target.model", ["does not fit", "815,649,423,360 bytes", "85,520,809,984 bytes"]),
    ({"target": _H100 | {"model": "llama-3.1-405b"}, "space": None}, "target.model", ["does not fit", "bytes"]),
    ({"objectives": [{"metric": "outputtokens_per_s"}]}, "objectives[0].metric", ["output_tokens_per_s"]),
    ({"objectives": [{"metric": "goodput_per_s"}]}, "slo", ["ttftMs"]),
    ({"objectives": [{"metric": "goodput_per_s"}], "slo": {"ttftMs": 0.2}}, "slo.ttftMs", ["200"]),
    ({"limits": [{"metric": "ttft_p90", "atMost": 2}]}, "limits[0].metric", ["ttft_p90_ms"]),
    ({"sampler": "defualt"}, "sampler", ["default"]),
    ({"target": {"kind": "command", "command": ["x", "{maxNumSeqs}"], "image": "i"}, "measuring": {"shortShare": 0.5}}, "measuring.shortShare", ["a command has no short run", "leave it out"]),
]  # fmt: skip
