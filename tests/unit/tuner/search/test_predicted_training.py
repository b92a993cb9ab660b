"""The training predictor as a cheap level: what cannot fit is not proposed, what it expects is tried first, and where it
is wrong the best is found all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName, Unsupported
from controlplane.model.tuning import Setting, Told, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.tuning_jobs import completed, sampler_of, space_of
from tuner.search.predicted import cheap_trials
from tuner.search.predicted_training import training_trials
from tuner.search.training_metrics import known_metric
from tuner.search.training_room import known_of
from tuner.search.training_runs import fullest_bytes, runs_of
from tuner.training.predict import Predictor

NAMES = ("tensorParallel", "pipelineParallel", "microBatch", "recompute", "zeroStage")
COMMAND = ["train", *(f"--{name}={{{name}}}" for name in NAMES)]
RUN = {"model": "llama-3.1-8b", "accelerator": "h100", "devices": 8, "globalBatch": 64, "sequenceTokens": 4096}


def job(run: dict[str, Any] | None = None, *, command: list[str] = COMMAND, **more: Any) -> TuningSpec:
    target = {"kind": "command", "command": command, "training": RUN | (run or {})}
    body: dict[str, Any] = {"target": target, "objectives": [{"metric": "step_s", "direction": "minimize"}]}
    return completed(TuningSpec.model_validate(body | more))


def runs(spec: TuningSpec) -> Any:
    assert spec.target.kind == "command" and spec.target.training is not None
    return runs_of(spec.target.training)


def test_without_a_space_the_run_brings_one_and_predictions_are_the_predictor_s() -> None:
    spec = job()
    assert spec.space is not None and {one.name for one in spec.space.parameters} == set(NAMES)
    found = cheap_trials(spec)
    assert "llama-3.1-8b on 8 x h100-sxm-80gb" in found.note and len(found.trials) > 50
    told = next(one for one in found.trials if one.violation[-1] <= 0)
    answer = Predictor().answer(runs(spec).case(told.setting))
    assert told.values == [pytest.approx(answer["iteration_s"])]
    assert fullest_bytes([runs(spec).case(told.setting)])[0] == pytest.approx(max(answer["memory_bytes"]))
    training_trials.__globals__["_trials"].cache_clear()
    assert cheap_trials(spec) == found


def test_the_first_trials_are_among_the_predicted_best_and_alike_each_time() -> None:
    spec = job()
    expected = {str(one.setting): one.values[0] for one in cheap_trials(spec).trials}
    tenth = sorted(expected.values())[len(expected) // 10]
    sampler = sampler_of(spec)
    asked = [sampler.ask(number) for number in range(4)]
    assert all(one.reason.startswith("best of the cheap level (") for one in asked)
    assert sum(expected[str(one.setting)] <= tenth for one in asked) >= 3
    assert expected[str(asked[0].setting)] <= 1.02 * min(expected.values())
    assert [sampler_of(spec).ask(number) for number in range(4)] == asked


@pytest.mark.parametrize("sampler", ["default", "random", "grid", "tpe", "nsga2"])
def test_what_the_memory_model_refuses_is_never_proposed(sampler: str) -> None:
    spec = job({"devices": 16, "nic": "ndr", "model": "llama-3.1-70b"}, sampler=sampler)
    margin = known_of(spec).margins[0][1]
    capacity, drawn = runs(spec).capacity_bytes, sampler_of(spec)
    for number in range(24):
        try:
            setting = drawn.ask(number).setting
        except TrimtabError:
            break  # the grid is at its end
        case = runs(spec).case(setting)
        assert capacity - fullest_bytes([case])[0] >= -(margin.slack + 0.001) * 2**30
        drawn.tell(Told(number=number, setting=setting, verdict=Verdict.OK, values=[1.0 + number % 7]))


def test_rows_of_a_space_are_judged_as_the_predictor_judges_each() -> None:
    space = {
        "parameters": [
            {"kind": "choice", "name": "tp", "values": [1, 2, 3, 8]},
            {"kind": "int", "name": "micro_batch", "low": 1, "high": 8},
            {"kind": "choice", "name": "recompute", "values": ["none", "full"]},
            {"kind": "float", "name": "lr", "low": 1e-4, "high": 1e-2, "log": True},
        ],
        "fixed": {"zeroStage": 1},
    }
    spec = job(space=space, command=["train", "{tp}", "{micro_batch}", "{recompute}", "{lr}"])
    compiled, plain = space_of(spec), known_of(spec)
    rows = compiled.rows_of_points(np.random.default_rng(0).random((300, 4)))
    left = plain.margins[0][0].over(compiled.columns(rows))
    refused = 0
    for i in range(300):
        try:
            case = runs(spec).case(compiled.setting(rows, i))
        except TrimtabError:
            refused += 1
            assert np.isnan(left[i]) and not compiled.allowed(rows)[i]
            continue
        assert left[i] == pytest.approx((runs(spec).capacity_bytes - fullest_bytes([case])[0]) / 2**30)
    assert 0 < refused < 300
    with pytest.raises(InvalidSpec, match="a whole training run: degrees"):
        compiled.checked({"tp": 3, "micro_batch": 1, "recompute": "none", "lr": 1e-3, "zeroStage": 1})


def test_a_model_that_fits_in_no_setting_is_refused_with_the_bytes() -> None:
    with pytest.raises(Unsupported, match=r"takes [\d,]+ bytes on the fullest of 8 devices of [\d,]+ bytes") as caught:
        job({"model": "llama-3.1-405b"})
    assert caught.value.field == "target.training.model"


def test_what_a_command_sets_itself_is_said_in_the_space() -> None:
    lr: dict[str, Any] = {"kind": "float", "name": "lr", "low": 1e-4, "high": 1e-2}
    with pytest.raises(Unsupported, match=r"it takes .* space\.fixed"):
        job(space={"parameters": [lr]}, command=["train", "--tp", "8", "{lr}"])
    fixed = job(space={"parameters": [lr], "fixed": {"tensorParallel": 8}}, command=["train", "--tp", "8", "{lr}"])
    assert "the same of all settings" in cheap_trials(fixed).note
    # A parameter that is there only sometimes: what the command does without it is its own affair.
    sharded: dict[str, Any] = {"kind": "choice", "name": "shard", "values": [False, True]}
    degree = {"kind": "choice", "name": "tp", "values": [1, 2], "when": [{"parameter": "shard", "values": [True]}]}
    assert job({"model": "llama-3.1-70b"}, space={"parameters": [sharded, degree]}, command=["{shard}", "{tp}"]).space


@pytest.mark.parametrize(
    ("run", "more", "error", "field", "words"),
    [
        ({"model": "llama-3.1-9b"}, {}, UnknownName, "target.training.model", "llama-3.1-8b"),
        ({"accelerator": "h1000"}, {}, UnknownName, "target.training.accelerator", "h100"),
        ({"devices": 64}, {}, InvalidSpec, "target.training.nic", "several nodes of 8"),
        ({"devices": 16, "nic": "ndrr"}, {}, UnknownName, "target.training.nic", "ib-ndr-400"),
        ({"devices": 12, "nic": "ndr"}, {}, InvalidSpec, "target.training.devices", "multiple"),
        ({"devices": 7, "globalBatch": 4}, {}, InvalidSpec, "target.training.globalBatch", "7 would work"),
        ({}, {"command": ["train", "{tensorParallel}", "{microBatch}"]}, InvalidSpec, "target.command",
         "{pipelineParallel}, {recompute}, {zeroStage}"),
        ({}, {"objectives": [{"metric": "step_ms"}]}, InvalidSpec, "objectives[0].direction", "minimize"),
        ({}, {"space": {"parameters": [{"kind": "choice", "name": "tp", "values": [3, 5]}]}, "command": ["{tp}"]},
         InvalidSpec, "space", "no whole number of replicas"),
    ],
)  # fmt: skip
def test_refusals_name_the_field_and_the_way_out(
    run: dict[str, Any], more: dict[str, Any], error: type[TrimtabError], field: str, words: str
) -> None:
    with pytest.raises(error) as caught:
        job(run, **more)
    assert caught.value.field == field and words in str(caught.value)


@pytest.mark.parametrize(
    ("run", "more", "why"),
    [
        ({}, {"objectives": [{"metric": "loss", "direction": "minimize"}]}, "it has no loss"),
        ({"accelerator": "cpu-x86"}, {}, "no predictor is asked"),
        ({"precision": "nvfp4"}, {}, "no nvfp4 peak"),
    ],
)
def test_it_says_why_there_are_no_predictions(run: dict[str, Any], more: dict[str, Any], why: str) -> None:
    spec = job(run, **more)
    found = cheap_trials(spec)
    assert found.trials == () and why in found.note
    assert found.note in sampler_of(spec).ask(0).reason


def test_a_job_whose_names_the_catalogue_has_forgotten_goes_on_without() -> None:
    spec = job()
    assert spec.target.kind == "command" and spec.target.training is not None
    run = spec.target.training.model_copy(update={"accelerator": "h1000"})
    gone = spec.model_copy(update={"target": spec.target.model_copy(update={"training": run})})
    assert "h1000" in cheap_trials(gone).note and sampler_of(gone).ask(0).setting


def test_metrics_by_their_usual_names() -> None:
    spec = job()
    setting = next(one.setting for one in cheap_trials(spec).trials if one.violation[-1] <= 0)
    answer = Predictor().answer(runs(spec).case(setting))

    def said(metric: str) -> float:
        direction = "minimize" if known_metric(metric) is not None and known_metric(metric).less else "maximize"  # type: ignore[union-attr]
        asked = job(objectives=[{"metric": metric, "direction": direction}])
        return next(one.values[0] for one in cheap_trials(asked).trials if one.setting == setting)

    step = answer["iteration_s"]
    for metric, value in {
        "step_ms": step * 1e3, "iteration_time_ms": step * 1e3, "steps_per_s": 1 / step,
        "tokens_per_s": answer["tokens_per_s"], "tokens/s/GPU": answer["tokens_per_s"] / 8,
        "samples_per_second": 64 / step, "mfu_pct": 100 * answer["mfu"],
        "peak_memory_gib": max(answer["memory_bytes"]) / 2**30, "energy_j": answer["energy_j"],
    }.items():  # fmt: skip
        assert said(metric) == pytest.approx(value, rel=1e-6), metric
    assert known_metric("step_time") is None and known_metric("loss") is None


def test_a_limit_counts_and_so_does_memory_that_is_not_there() -> None:
    spec = job(limits=[{"metric": "peak_memory_gib", "atMost": 60}])
    trials = cheap_trials(spec).trials
    over = {one.values[0] for one in trials if one.violation[0] > 0}
    assert len(over) == 1 and max(one.values[0] for one in trials) in over
    unlimited = cheap_trials(job()).trials
    assert len({one.values[0] for one in unlimited if one.violation[-1] > 0}) <= 1


def test_where_nothing_is_expected_to_keep_the_limits_that_is_said() -> None:
    spec = job(limits=[{"metric": "step_s", "atMost": 1e-9}])
    assert "expects no setting to fit and keep every limit: it is not followed" in cheap_trials(spec).note


def study(spec: TuningSpec, value: Callable[[Setting], float | None], count: int) -> list[float]:
    """Values of the trials of a study, failures left out."""
    sampler, out = sampler_of(spec), []
    for number in range(count):
        setting = sampler.ask(number).setting
        found = value(setting)
        sampler.tell(
            Told(number=number, setting=setting, verdict=Verdict.OK, values=[found])
            if found is not None
            else Told(number=number, setting=setting, verdict=Verdict.INFEASIBLE)
        )
        out += [] if found is None else [found]
    return out


def test_a_predictor_that_is_wrong_does_not_hide_the_best() -> None:
    """The command's truth is the opposite of what is predicted: the slowest is the fastest."""
    spec = job()
    seconds = {str(one.setting): Predictor().answer(runs(spec).case(one.setting))["iteration_s"]
               for one in cheap_trials(spec).trials}  # fmt: skip
    truth = {name: 100.0 / value for name, value in seconds.items()}

    def turned(setting: Setting) -> float:
        return truth.get(str(setting), 100.0)

    found = study(spec, turned, 40)
    assert found[0] > 2 * min(truth.values()) and min(found) <= 1.1 * min(truth.values())
