"""What a few requests say of the rest: settings far from the best are ended, good ones hardly ever."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from controlplane.model.plans import Lengths, Workload
from controlplane.model.tuning import Bar, Limit, Objective, TrialPurpose, TrialState
from controlplane.model.tuning_job import CommandTarget, EngineTarget, Measuring, RequestSlo, TuningSpec
from controlplane.model.tuning_records import MeasuredTrial, TrialRecord
from tests.unit.store.conftest import NOW
from tuner.best_so_far import BestSoFar, best_so_far
from tuner.intervals import t_beyond
from tuner.measure.loadgen.early import Early
from tuner.measure.loadgen.plan import Rows, rows_of
from tuner.measure.short import ShortRun, short_requests, short_run

CLOSED = Workload(arrivals="closed", concurrency=8, input=Lengths(tokens=64), output=Lengths(tokens=11))
OPEN = Workload(arrivals="poisson", rate_per_second=10, input=Lengths(tokens=64), output=Lengths(tokens=11))


def spec(metric: str = "output_tokens_per_s", **fields: Any) -> TuningSpec:
    down = metric.endswith("_ms")
    given: dict[str, Any] = {
        "target": EngineTarget(engine="openvino", model="m"),
        "objectives": [Objective(metric=metric, direction="minimize" if down else "maximize")],
        "slo": RequestSlo(ttft_ms=200, tpot_ms=30),
        "load": CLOSED,
        **fields,
    }
    return TuningSpec(**given)


def requests(ttft_s: float, tpot_s: float, count: int = 50, *, noise: float = 0.05, seed: int = 0) -> list[Early]:
    """Requests of a closed loop: only what each took counts."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(count):
        first, rest = ttft_s * rng.lognormal(0, noise), 10 * tpot_s * rng.lognormal(0, noise)
        out.append(Early(16 + number, 0.0, float(first), float(first + rest)))
    return out


def rows(what: TuningSpec, warm_up: int = 16, seed: int = 1) -> Rows:
    return rows_of(what.load, warm_up + what.measuring.requests, seed)


def verdict(what: TuningSpec, early: list[Early], bar: Bar, known: dict[str, float | None] | None = None) -> str:
    found = ShortRun(what, bar, known or {}, len(early))
    assert found.enough(early, rows(what)) == bool(found.why)
    return found.why


# 8 clients, 0.3 s each: 26.7 requests and 293 tokens a second.
GOOD = requests(0.1, 0.02)


def test_only_what_stays_out_of_reach_at_any_pace_ends_a_trial() -> None:
    assert "output_tokens_per_s is " in verdict(spec(), GOOD, Bar(value=900.0, pace=2.0))
    assert verdict(spec(), GOOD, Bar(value=900.0, pace=4.0)) == ""
    assert verdict(spec(), GOOD, Bar(value=500.0, pace=2.0)) == ""
    assert verdict(spec(), GOOD, Bar(value=None, pace=1.0)) == ""


def test_less_is_better_where_it_is_said() -> None:
    for metric, best in (("ttft_p90_ms", 30.0), ("e2e_mean_ms", 100.0), ("tpot_p50_ms", 6.0)):
        why = verdict(spec(metric), GOOD, Bar(value=best, pace=2.0))
        assert metric in why and "at least" in why and "the best so far is" in why
        assert verdict(spec(metric), GOOD, Bar(value=best, pace=5.0)) == ""


def test_goodput_is_judged_by_what_a_faster_process_would_keep() -> None:
    slow = requests(0.3, 0.02)  # no first token in time, all of them at twice the pace
    assert "goodput_per_s" in verdict(spec("goodput_per_s"), slow, Bar(value=20.0, pace=1.2))
    assert verdict(spec("goodput_per_s"), slow, Bar(value=20.0, pace=2.0)) == ""
    # None of twenty good is no proof of none at all: a tenth may be.
    twenty = requests(0.3, 0.02, count=20)
    assert verdict(spec("goodput_per_s"), twenty, Bar(value=3.0, pace=1.0)) == ""


def test_limits_that_are_surely_broken_end_a_trial_too() -> None:
    best = Bar(value=100.0, pace=2.0)
    broken = spec(limits=[Limit(metric="ttft_p90_ms", at_most=20)])
    assert "has to be at most 20" in verdict(broken, GOOD, best)
    assert verdict(spec(limits=[Limit(metric="ttft_p90_ms", at_most=60)]), GOOD, best) == ""
    assert "at least 5000" in verdict(spec(limits=[Limit(metric="prompt_tokens_per_s", at_least=5000)]), GOOD, best)
    # Whole before the load, so nothing about it is open; unknown to a few requests, so nothing is said of it.
    agree = spec(limits=[Limit(metric="token_agreement", at_least=0.99)])
    assert "token_agreement is 0.9" in verdict(agree, GOOD, best, {"token_agreement": 0.9})
    assert verdict(agree, GOOD, best, {"token_agreement": 1.0}) == ""
    assert verdict(spec(limits=[Limit(metric="joule_per_output_token", at_most=1e-9)]), GOOD, best) == ""
    assert verdict(spec(limits=[Limit(metric="attainment_lo", at_least=0.999)]), GOOD, best) == ""


def test_a_queue_of_an_open_loop_is_gone_at_a_pace_that_can_follow() -> None:
    what = spec("goodput_per_s", load=OPEN)
    asked = rows(what)
    took, free = 0.13, 0.0  # one at a time, a third slower than they come: the queue grows
    early = []
    for number in range(16, 66):
        at = asked[number][0]
        free = max(at, free) + took
        early.append(Early(number, at, free, free + 0.2))
    assert sum(one.first_s is not None and one.first_s - one.intended_s > 0.2 for one in early) > 25
    slow = ShortRun(what, Bar(value=10.0, pace=1.0), {}, 50)
    assert slow.enough(early, asked) and "goodput_per_s" in slow.why
    assert not ShortRun(what, Bar(value=10.0, pace=2.0), {}, 50).enough(early, asked)


def test_a_time_that_was_looked_at_first_lowers_no_bound_of_a_rate() -> None:
    """Both are seen at one pace; the least that clients may send is no bound of what may be answered."""
    asked = rows(spec(load=OPEN))
    early = [
        Early(number, asked[number][0], asked[number][0] + 0.1, asked[number][0] + 0.3) for number in range(16, 66)
    ]
    limit = [Limit(metric="requests_per_s", at_least=9.9)]
    for metric in ("requests_per_s", "e2e_mean_ms"):
        best = Bar(value=10.0 if metric == "requests_per_s" else 300.0, pace=1.2)
        assert verdict(spec(metric, load=OPEN, limits=limit), early, best) == ""
    assert "at least 20" in verdict(
        spec("e2e_mean_ms", load=OPEN, limits=[Limit(metric="requests_per_s", at_least=20)]), early, best
    )


def test_a_quiet_warm_up_lowers_no_bound_of_what_a_trace_offers() -> None:
    what = spec("requests_per_s", load=Workload(arrivals="trace", trace="t.jsonl"))
    asked: Rows = tuple((float(i) if i < 16 else 16 + (i - 16) / 10, 64, 11) for i in range(216))
    early = [
        Early(number, asked[number][0], asked[number][0] + 0.1, asked[number][0] + 0.3) for number in range(16, 66)
    ]
    assert not ShortRun(what, Bar(value=10.0, pace=1.0), {}, 50).enough(early, asked)
    assert ShortRun(what, Bar(value=12.0, pace=1.0), {}, 50).enough(early, asked)


def test_failed_requests_are_not_good_and_too_few_answers_say_nothing() -> None:
    failed = [Early(one.number, 0.0, None, None, failed=True) for one in GOOD]
    assert verdict(spec("ttft_p50_ms"), failed, Bar(value=1.0, pace=1.0)) == ""
    half = [*failed[:25], *GOOD[25:]]
    assert "goodput_per_s" in verdict(spec("goodput_per_s"), half, Bar(value=80.0, pace=1.0))
    assert verdict(spec("goodput_per_s"), half, Bar(value=20.0, pace=1.5)) == ""


@pytest.mark.parametrize(
    ("what", "count"),
    [
        (spec(), 50),
        (spec(measuring=Measuring(requests=40)), 20),
        (spec(measuring=Measuring(requests=24)), None),
        (spec(measuring=Measuring(requests=200, short_share=0)), None),
        (spec(measuring=Measuring(requests=200, short_share=0.5)), 100),
        (spec(measuring=Measuring(requests=100_000)), 1000),
        (spec(load=CLOSED.model_copy(update={"concurrency": 60})), 120),
        (spec(load=CLOSED.model_copy(update={"concurrency": 100})), None),
        (spec("joule_per_output_token"), None),
        (spec("joule_per_output_token", limits=[Limit(metric="ttft_p90_ms", at_most=9)]), 50),
        (spec(objectives=[Objective(metric="goodput_per_s"), Objective(metric="requests_per_s")]), None),
        (spec(target=CommandTarget(command=["x"])), None),
    ],
)
def test_how_many_requests_a_short_run_has(what: TuningSpec, count: int | None) -> None:
    assert short_requests(what) == count
    assert (short_run(what, Bar(value=1.0, pace=1.0), {}) is None) == (count is None)
    assert short_run(what, None, {}) is None


def trial(number: int, value: float, canonical: str = "", **fields: Any) -> TrialRecord:
    given: dict[str, Any] = {
        "job": "j", "number": number, "state": TrialState.DONE, "purpose": TrialPurpose.SEARCH, "setting": {"a": number},
        "canonical": canonical or str(number), "why": "", "seed": number, "attempt": 1, "lost": 0, "asked_at": NOW,
        "objectives": [value], "violation": [], "share": 1.0, **fields,
    }  # fmt: skip
    return TrialRecord(**given)


def test_the_bar_is_the_best_that_was_measured_in_full_within_the_limits() -> None:
    best = BestSoFar(spec())
    assert best.bar("x") is None
    best.hear(trial(0, 50.0, violation=[1.0]))
    best.hear(trial(1, 60.0, state=TrialState.INFEASIBLE, objectives=None))
    best.hear(trial(2, 70.0, share=0.25))
    assert best.bar("x") is None, "nothing within the limits was measured in full"
    best.hear(trial(3, 10.0))
    best.hear(trial(4, 12.0, purpose=TrialPurpose.BASELINE))
    found = best.bar("x")
    assert found is not None and found.value == 12.0
    assert best.bar("3") is None, "another sample of what was measured in full"
    assert best.bar("2") == found, "that one was not"
    best.hear(trial(5, 4.0, canonical="4"))
    found = best.bar("x")
    assert found is not None and found.value == 10.0, "the best was lucky: its mean is 8"


def test_processes_that_lie_close_lower_the_margin_and_others_raise_it() -> None:
    close, apart, neither = BestSoFar(spec()), BestSoFar(spec()), BestSoFar(spec())
    for number in range(40):
        one = trial(number, 1.0, canonical=str(number // 4))
        close.hear(timed(one, 100.0))
        apart.hear(timed(one, 100.0 * (1 + 9 * (number % 2))))
        neither.hear(timed(one, 0.0) if number % 2 else one)
    assert neither.pace() == BestSoFar(spec()).pace() == pytest.approx(math.exp(2.8965 * 0.21), rel=1e-4)
    assert 1.0 < close.pace() < 1.5
    assert apart.pace() > 20


def test_how_far_processes_lie_apart_is_learnt_within_each_setting() -> None:
    """The same however the measurements of settings follow each other, and what two passes over them give."""
    rng = np.random.default_rng(3)
    heard = [(str(number % 3), 100.0 * (1 + number % 3) * float(rng.lognormal(0, 0.4))) for number in range(30)]
    best, sorted_ = BestSoFar(spec()), BestSoFar(spec())
    for into, order in ((best, heard), (sorted_, sorted(heard))):
        for number, (canonical, took_ms) in enumerate(order):
            into.hear(timed(trial(number, 1.0, canonical=canonical), took_ms))
    logs = [[math.log(took_ms) for canonical, took_ms in heard if canonical == one] for one in "012"]
    variance = (8 * 0.21**2 + 2 * sum(float(np.var(one)) * len(one) for one in logs)) / (8 + 27)
    expected = math.exp(float(t_beyond(0.02, 35)) * math.sqrt(variance))
    assert best.pace() == pytest.approx(expected) and sorted_.pace() == pytest.approx(expected)


def timed(one: TrialRecord, took_ms: float) -> TrialRecord:
    """As a driver reads it: with what a request took."""
    return MeasuredTrial.model_construct(**dict(one), figures={"e2e_mean_ms": took_ms})


def test_no_bars_where_there_are_no_short_runs() -> None:
    assert best_so_far(spec(target=CommandTarget(command=["x"]))) is None
    assert best_so_far(spec(measuring=Measuring(short_share=0))) is None


def correlated(rng: np.random.Generator, mean_s: float, count: int, *, deviation: float, memory: float) -> list[Early]:
    """Requests whose noise remembers that of the one before."""
    level, out = float(rng.normal()), []
    for number in range(count):
        level = memory * level + math.sqrt(1 - memory**2) * float(rng.normal())
        took = mean_s * math.exp(deviation * level - deviation**2 / 2)
        out.append(Early(16 + number, 0.0, took / 3, took))
    return out


@pytest.mark.parametrize(("between", "memory"), [(0.05, 0.0), (0.2, 0.5), (0.2, 0.9)])
@pytest.mark.parametrize("metric", ["output_tokens_per_s", "ttft_p90_ms", "goodput_per_s"])
def test_of_simulated_studies_hardly_one_cuts_its_best_setting(between: float, memory: float, metric: str) -> None:
    """Twelve settings up to four times as slow as the best, which comes last: the bar is the luckiest of the others in
    full runs, each process at a pace of its own."""
    what = spec(metric, slo=RequestSlo(e2e_ms=450))
    asked, studies, cut_best, cut_slow, slow = rows(what), 150, 0, 0, 0
    rng = np.random.default_rng(7)
    for _ in range(studies):
        means_s = [0.3 * float(rng.uniform(1.02, 4.0)) for _ in range(12)]
        paces = [math.exp(between * float(rng.normal())) for _ in range(13)]
        best = BestSoFar(what)
        values = []
        for mean_s, pace in zip(means_s, paces, strict=False):
            took_s = mean_s / pace
            good = 1.0 if took_s < 0.4 else 0.0 if took_s > 0.6 else (0.6 - took_s) / 0.2
            values.append(
                {"output_tokens_per_s": 88 / took_s, "ttft_p90_ms": took_s / 3 * 1.4e3, "goodput_per_s": 8 / took_s * good}[
                    metric
                ]
            )  # fmt: skip
        for number, value in enumerate(values):
            best.hear(trial(number, value))
        bar = best.bar("new")
        assert bar is not None
        early = correlated(rng, 0.3 / paces[12], 50, deviation=0.3, memory=memory)
        cut_best += ShortRun(what, bar, {}, 50).enough(early, asked)
        early = correlated(rng, 4 * 0.3 / paces[12], 50, deviation=0.3, memory=memory)
        slow += 1
        cut_slow += ShortRun(what, bar, {}, 50).enough(early, asked)
    assert cut_best <= studies / 100
    assert cut_slow >= slow / 3, "what takes four times as long is no more often let through than that"
