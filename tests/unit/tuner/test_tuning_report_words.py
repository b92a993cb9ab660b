"""A tuning report's figures and words: values as users wrote them, units, limits in words, kinds told apart by shape."""

from __future__ import annotations

import xml.dom.minidom
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from controlplane.model.tuning import JobState, Limit, TrialPurpose, TrialState
from controlplane.model.tuning_decision import TuningDecision
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import TrialCounts, TrialRecord, TuningJobRecord
from tuner.search.axis import Axis
from tuner.search.space import compile_space
from tuner.tuning_axes import axis_marks, figure_axis, log_ticks, places
from tuner.tuning_figures import feasibility_map, parallel_coordinates
from tuner.tuning_report import _floored, tuning_page
from tuner.tuning_words import limit_words, load_words, metric_label, slo_words, target_words

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "target": {"kind": "engine", "engine": "openvino", "model": "/m/tiny.gguf", "shape": {}},
    "space": {
        "parameters": [
            {"kind": "int", "name": "maxNumSeqs", "low": 1, "high": 256, "log": True},
            {"kind": "choice", "name": "kvCachePrecision", "values": ["u8", "bf16"]},
            {"kind": "int", "name": "numThreads", "low": 1, "high": 2},
        ]
    },
    "objectives": [{"metric": "goodput_per_s"}],
    "limits": [{"metric": "ttft_p90_ms", "atMost": 300}],
    "slo": {"ttftMs": 300, "tpotMs": 40},
}


def spec(**changes: Any) -> TuningSpec:
    return TuningSpec.model_validate(SPEC | changes)


def axes(one: TuningSpec) -> dict[str, Axis]:
    assert one.space is not None
    return {axis.name: axis for axis in compile_space(one.space).axes}


def trial(number: int, seqs: int, state: TrialState = TrialState.DONE, violation: float = -1.0) -> TrialRecord:
    return TrialRecord(
        job="j", number=number, state=state, purpose=TrialPurpose.SEARCH, canonical=f"c{number}", why="w", seed=0,
        setting={"maxNumSeqs": seqs, "kvCachePrecision": "u8", "numThreads": 1}, attempt=1, lost=0, asked_at=NOW,
        leased_at=NOW, ended_at=NOW, objectives=[float(seqs)] if state is TrialState.DONE else None, violation=[violation],
    )  # fmt: skip


TRIALS = [trial(0, 1), trial(1, 16, violation=2.0), trial(2, 256, TrialState.INFEASIBLE), trial(3, 64)]


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("ttft_p90_ms", "TTFT p90, ms"),
        ("goodput_per_s", "goodput, per s"),
        ("output_tokens_per_s", "output tokens, per s"),
        ("attainment", "attainment"),
        ("power_mean_w", "power mean, W"),
        ("_ms", "ms"),
    ],
)
def test_metrics_are_shown_with_their_unit(metric: str, label: str) -> None:
    assert metric_label(metric) == label


def test_limits_load_and_target_are_words() -> None:
    one = spec(load={"arrivals": "poisson", "ratePerSecond": 12, "input": {"tokens": 256}, "output": {"tokens": 64}})
    assert [limit_words(limit) for limit in one.limits] == ["TTFT p90 at most 300 ms"]
    assert limit_words(Limit(metric="attainment", at_least=0.9)) == "attainment at least 0.9"
    assert slo_words(one.slo) == ["TTFT at most 300 ms", "TPOT at most 40 ms"] and slo_words(None) == ["none"]
    assert load_words(one)[0] == "poisson arrivals, 12 requests per s" and "prompt: 256 tokens" in load_words(one)
    assert target_words(one) == ["openvino with /m/tiny.gguf"]
    command = spec(target={"kind": "command", "command": ["a", "{maxNumSeqs}"]}, slo=None)
    assert target_words(command) == ["command: a {maxNumSeqs}"] and "brings its own" in load_words(command)[0]


def test_axes_show_values_as_users_write_them() -> None:
    one = spec()
    known = axes(one)
    seqs = figure_axis(one, known["maxNumSeqs"])
    assert seqs.log and seqs.label == "maxNumSeqs, requests" and set(seqs.ticks) >= {1.0, 10.0, 100.0}
    assert seqs.low < 1 and seqs.high > 256
    precision = figure_axis(one, known["kvCachePrecision"])
    assert list(precision.names) == ["u8", "bf16"]
    assert figure_axis(one, known["numThreads"]).ticks == [1.0, 2.0]
    assert list(places(known["maxNumSeqs"], TRIALS)) == [1, 16, 256, 64]
    drawn_apart = places(known["kvCachePrecision"], TRIALS)
    assert len(set(drawn_apart)) == 4 and np.all(np.abs(drawn_apart) < 0.5)
    assert [text for _, text in axis_marks(known["kvCachePrecision"])] == ["u8", "bf16"]


@pytest.mark.parametrize(("low", "high"), [(1, 256), (128, 8192), (0.001, 1000), (5, 6), (1e-9, 1e12), (2, 2.5)])
def test_a_logarithmic_axis_has_some_ticks_within(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 10 and all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)


def test_the_map_tells_what_worked_by_shape_and_says_the_limits() -> None:
    drawn = feasibility_map(spec(), TRIALS, ["kvCachePrecision", "maxNumSeqs"])
    for text in (
        "● worked",
        "○ over a limit",
        "× did not work",
        "TTFT p90 at most 300 ms",
        "maxNumSeqs, requests",
        ">bf16<",
    ):
        assert text in drawn
    assert "nothing to show" in feasibility_map(spec(), [], [])
    one = spec(space={"parameters": SPEC["space"]["parameters"][:1]})
    assert feasibility_map(one, TRIALS, []) == ""


def test_a_parameter_that_does_not_count_is_not_drawn() -> None:
    lonely = TRIALS[0].model_copy(update={"setting": {"maxNumSeqs": 1, "numThreads": 1}})
    assert np.isnan(places(axes(spec())["kvCachePrecision"], [lonely])[0])


def test_parallel_axes_say_their_values_and_what_is_left_out() -> None:
    drawn = parallel_coordinates(spec(), TRIALS)
    for text in (">256<", ">1<", ">u8<", ">bf16<", ">64<", "goodput, per s"):
        assert text in drawn, text
    many = [{"kind": "float", "name": f"parameterNumber{i}", "low": 0, "high": 1} for i in range(14)]
    wide = spec(space={"parameters": many})
    full = [TRIALS[0].model_copy(update={"setting": {one["name"]: 0.5 for one in many}})]
    assert "3 more parameters are left out" in parallel_coordinates(wide, full)


def test_the_page_is_well_formed_and_shows_no_program_text() -> None:
    job = TuningJobRecord(
        id="j", tenant="t", name="<b>&", spec=spec(), state=JobState.DONE, budget=4,
        counts=TrialCounts(asked=4, done=3, infeasible=1), generation=1, events=9, created_at=NOW,
    )  # fmt: skip
    page = tuning_page(job, TRIALS, [], TuningDecision(verdict="no-baseline", message="m"))
    xml.dom.minidom.parseString(page.removeprefix("<!DOCTYPE html>\n"))
    assert "{'" not in page and "at_most" not in page and "TTFT p90 at most 300 ms" in page


def test_trials_that_were_cut_short_are_shown_as_such_and_are_not_the_best_so_far() -> None:
    why = "cut short after 25 % of a run: goodput_per_s is 4 at most (99% sure), the best so far is 64"
    cut = trial(4, 3).model_copy(update={"share": 0.25, "reason": why, "objectives": [3.0]})
    one = spec()
    job = TuningJobRecord(
        id="j", tenant="local", name="n", spec=one, state=JobState.DONE, budget=5, counts=TrialCounts(), generation=1,
        events=1, created_at=NOW,
    )  # fmt: skip
    decision = TuningDecision(verdict="none-kept", message="m")
    plain, page = (tuning_page(job, trials, [], decision) for trials in (TRIALS, [*TRIALS, cut]))
    assert "cut short" not in plain
    assert "done, cut short" in page and "the best so far is 64" in page
    assert page.count("cut short") >= 3, "in the history, on the clock, and in the list"


def running(budget: int = 6, **changes: Any) -> TuningJobRecord:
    return TuningJobRecord(
        id="j", tenant="local", name="j", spec=spec(**changes), state=JobState.RUNNING, generation=0, budget=budget,
        counts=TrialCounts(asked=4), events=0, created_at=NOW,
    )  # fmt: skip


def test_a_job_under_way_is_told_to_be_so() -> None:
    early = TuningDecision(verdict="none-kept", message="no configuration was confirmed; keep the configuration in use")
    text = tuning_page(running(), TRIALS, [], early)
    assert "The job is under way: 4 of 6 trials of the search have ended" in text
    assert "best so far goodput_per_s 64 (trial 3), not confirmed" in text and "no configuration was" not in text
    assert "none that kept the limits yet" in tuning_page(running(), [TRIALS[1]], [], early)


def test_bars_on_the_clock_keep_their_colours() -> None:
    early = TuningDecision(verdict="none-kept", message="m")
    infeasible = [trial(0, 1, TrialState.INFEASIBLE), trial(1, 2)]
    for trials in (infeasible, infeasible[::-1]):
        clock = tuning_page(running(), trials, [], early).partition("Timeline")[2]
        assert '<span class="s0">search</span> <span class="s4">infeasible</span>' in clock


def test_intervals_are_not_drawn_below_nothing() -> None:
    assert _floored("goodput_per_s", 1.0, -3.0) == 0.0
    assert _floored("goodput_per_s", 1.0, 0.5) == 0.5
    assert _floored("change_pct", 1.0, -3.0) == _floored("log_likelihood", 1.0, -3.0) == -3.0
