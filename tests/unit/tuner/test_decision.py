"""The end of a study: rounds of confirmation, and what their intervals allow to be said."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from controlplane.model.tuning import Setting, TrialPurpose, TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask, TrialRecord
from controlplane.testing.null_runner import digest_of
from tuner.decision import candidates, confirm_asks, decide, pareto
from tuner.intervals import gain_in_rounds, gain_of, interval_of, t_beyond
from tuner.measure.verdict import span_of, word_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def spec(**more: Any) -> TuningSpec:
    body: dict[str, Any] = {
        "target": {"kind": "command", "command": ["true"]},
        "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 100}]},
        "objectives": [{"metric": "value"}],
        "measuring": {"confirmTop": 2, "confirmRuns": 3},
    }
    return TuningSpec.model_validate(body | more)


def trial(
    number: int,
    a: int,
    values: Sequence[float] | None,
    *,
    violation: Sequence[float] = (),
    purpose: TrialPurpose = TrialPurpose.SEARCH,
    seed: int = 0,
    state: TrialState = TrialState.DONE,
) -> TrialRecord:
    setting: Setting = {"a": a}
    return TrialRecord(
        job="j", number=number, state=state, purpose=purpose, setting=setting, canonical=digest_of(setting), why="",
        seed=seed, attempt=1, lost=0, asked_at=NOW, objectives=None if values is None else list(values),
        violation=list(violation),
    )  # fmt: skip


def answered(asks: Sequence[Ask], value: dict[int, float], noise: float = 0.0) -> list[TrialRecord]:
    """Confirmation trials as measured: each round is `noise` % faster than the one before."""
    first = min(ask.seed for ask in asks)
    return [
        trial(
            ask.number,
            int(ask.setting["a"]),
            [value[int(ask.setting["a"])] * (1 + noise / 100 * (ask.seed - first)) * (1 + 0.001 * (i % 4))],
            purpose=ask.purpose,
            seed=ask.seed,
        )
        for i, ask in enumerate(asks)
    ]


SEARCH = [trial(0, 1, [10.0]), trial(1, 2, [30.0], violation=[5.0]), trial(2, 3, [20.0]), trial(3, 4, [15.0]),
          trial(4, 5, None, state=TrialState.INFEASIBLE), trial(5, 3, [22.0])]  # fmt: skip


def test_candidates_keep_the_limits_before_they_are_fast_and_one_configuration_is_one() -> None:
    found = candidates(spec(), SEARCH)
    assert [(one.trial.number, one.objectives[0], one.kept) for one in found] == [
        (2, 21.0, True), (3, 15.0, True), (0, 10.0, True), (1, 30.0, False),
    ]  # fmt: skip
    down = spec(objectives=[{"metric": "value", "direction": "minimize"}])
    assert [one.trial.number for one in candidates(down, SEARCH)] == [0, 3, 2, 1]


def test_rounds_pair_the_configuration_in_use_with_each_candidate_on_the_same_requests() -> None:
    asks = confirm_asks(spec(), SEARCH, {"a": 50}, digest_of)
    assert [(ask.number, ask.setting["a"], ask.purpose.value) for ask in asks[:3]] == [
        (6, 50, "baseline"), (7, 3, "confirm"), (8, 4, "confirm"),
    ]  # fmt: skip
    assert len(asks) == 9 and len({ask.seed for ask in asks[:3]}) == 1 and len({ask.seed for ask in asks}) == 3
    assert not {ask.seed for ask in asks} & set(range(10_000))


def test_two_rounds_are_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 3"):
        spec(measuring={"confirmRuns": 2})


def test_every_other_round_has_the_opposite_order() -> None:
    order = [ask.setting["a"] for ask in confirm_asks(spec(), SEARCH, {"a": 50}, digest_of)]
    assert order == [50, 3, 4, 4, 3, 50, 50, 3, 4]


def run_rounds(job: TuningSpec, trials: list[TrialRecord], value: dict[int, float]) -> list[TrialRecord]:
    while asks := confirm_asks(job, trials, {"a": 50}, digest_of):
        trials = trials + answered(asks, value, noise=10.0)
    return trials


def test_rounds_end_when_the_interval_decides() -> None:
    long = spec(measuring={"confirmTop": 2, "confirmRuns": 12})
    clear = run_rounds(long, SEARCH, {50: 10.0, 3: 20.0, 4: 15.0})
    assert len(clear) - len(SEARCH) < 3 * 6 and decide(long, clear).verdict == "better"
    worse = run_rounds(long, SEARCH, {50: 30.0, 3: 20.0, 4: 15.0})
    assert len(worse) - len(SEARCH) < 3 * 6 and decide(long, worse).verdict == "worse"
    alike = run_rounds(long, SEARCH, {50: 10.0, 3: 10.0, 4: 10.0})
    assert len(alike) - len(SEARCH) == 3 * 12 and decide(long, alike).verdict == "no-evidence"


def test_rounds_go_on_one_at_a_time_as_they_would_together() -> None:
    long = spec(measuring={"confirmTop": 2, "confirmRuns": 12})
    value = {50: 10.0, 3: 20.0, 4: 15.0}
    whole, trials = run_rounds(long, SEARCH, value), SEARCH
    by_seed = {(one.seed, one.canonical): one for one in whole}
    while asks := confirm_asks(long, trials, {"a": 50}, digest_of):
        trials = [*trials, by_seed[(asks[0].seed, asks[0].canonical)]]
    assert trials == whole


def test_nothing_more_is_asked_of_configurations_that_all_died() -> None:
    long = spec(measuring={"confirmTop": 1, "confirmRuns": 12})
    asks = confirm_asks(long, SEARCH, {"a": 50}, digest_of)
    runs = answered(asks, {50: 10.0, 3: 20.0})
    dead = {"state": TrialState.INFEASIBLE, "objectives": None, "reason": "died"}
    runs = [one if one.setting == {"a": 50} else one.model_copy(update=dead) for one in runs]
    assert confirm_asks(long, SEARCH + runs, {"a": 50}, digest_of) == []
    assert decide(long, SEARCH + runs).verdict == "none-kept"


def test_what_the_model_recommends_is_confirmed_before_the_luckiest() -> None:
    one = spec(measuring={"confirmTop": 1, "confirmRuns": 3})
    asks = confirm_asks(one, SEARCH, {"a": 50}, digest_of, lambda: {"a": 4})
    assert [ask.setting["a"] for ask in asks[:2]] == [50, 4]
    begun = SEARCH + answered(asks[:2], {50: 10.0, 4: 11.0})
    # A model elsewhere says something else: what was begun with stays.
    assert confirm_asks(one, begun, {"a": 50}, digest_of, lambda: {"a": 1}) == asks[2:]
    two = confirm_asks(spec(), SEARCH, {"a": 50}, digest_of, lambda: {"a": 2})  # broke a limit: not to be had
    assert {ask.setting["a"] for ask in two} == {50, 3, 4}


def test_what_was_confirmed_is_not_asked_again_until_the_search_goes_on() -> None:
    asks = confirm_asks(spec(), SEARCH, {"a": 50}, digest_of)
    some = SEARCH + answered(asks[:4], {50: 10.0, 3: 20.0, 4: 15.0})
    assert confirm_asks(spec(), some, {"a": 50}, digest_of) == asks[4:]
    everything = SEARCH + answered(asks, {50: 10.0, 3: 20.0, 4: 15.0})
    assert confirm_asks(spec(), everything, {"a": 50}, digest_of) == []
    extended = [*everything, trial(15, 77, [99.0])]
    again = confirm_asks(spec(), extended, {"a": 50}, digest_of)
    assert (again[0].number, len(again), again[1].setting) == (16, 9, {"a": 77})


def test_the_configuration_in_use_is_no_candidate_against_itself() -> None:
    asks = confirm_asks(spec(), SEARCH, {"a": 3}, digest_of)
    assert {ask.setting["a"] for ask in asks if ask.purpose is TrialPurpose.CONFIRM} == {4, 1}
    assert confirm_asks(spec(), SEARCH[4:5], {"a": 3}, digest_of) == []


@pytest.mark.parametrize(("value", "verdict"), [(12.0, "better"), (8.0, "worse"), (10.0, "no-evidence")])
def test_the_verdict_follows_the_interval_of_paired_rounds(value: float, verdict: str) -> None:
    asks = confirm_asks(spec(), SEARCH, {"a": 50}, digest_of)
    # The machine gets 20 % faster from round to round: pairs do not care.
    runs = answered(asks, {50: 10.0, 3: value, 4: value / 2}, noise=20.0)
    found = decide(spec(), SEARCH + runs)
    assert found.verdict == verdict, found.message
    assert found.best is not None and found.best.number == 2 and found.best.gain_pct is not None
    gain = found.best.gain_pct
    assert gain.lo is not None and gain.hi is not None and gain.runs == 3
    assert gain.lo <= 100 * (value / 10 - 1) <= gain.hi and gain.hi - gain.lo < 2
    assert [one.number for one in found.confirmed] == [2, 3]


def test_a_configuration_in_use_that_reaches_nothing_is_a_baseline_without_a_ratio() -> None:
    asks = confirm_asks(spec(), SEARCH, {"a": 50}, digest_of)
    found = decide(spec(), SEARCH + answered(asks, {50: 0.0, 3: 11.0, 4: 9.0}))
    assert (found.verdict, found.baseline is None) == ("no-evidence", False)
    assert "value of the configuration in use is 0 on average" in found.message


def test_a_lucky_trial_does_not_win_by_its_search_value() -> None:
    asks = confirm_asks(spec(), SEARCH, {"a": 50}, digest_of)
    found = decide(spec(), SEARCH + answered(asks, {50: 10.0, 3: 11.0, 4: 14.0}))
    assert found.best is not None and found.best.setting == {"a": 4}


def test_who_breaks_a_limit_or_fails_when_confirmed_is_not_handed_over() -> None:
    limited = spec(limits=[{"metric": "ttft_p90_ms", "atMost": 100}])
    asks = confirm_asks(spec(), SEARCH, {"a": 50}, digest_of)
    runs = answered(asks, {50: 10.0, 3: 20.0, 4: 15.0})
    runs = [one.model_copy(update={"violation": [3.0 if one.setting == {"a": 3} else -1.0]}) for one in runs]
    dead = next(n for n, one in enumerate(runs) if one.setting == {"a": 4})
    runs[dead] = runs[dead].model_copy(update={"state": TrialState.INFEASIBLE, "objectives": None, "reason": "died"})
    found = decide(limited, SEARCH + runs)
    assert found.verdict == "none-kept" and found.best is None
    assert {one.note for one in found.confirmed} == {
        "on average over the limit of ttft_p90_ms", "1 of 3 runs failed: died",
    }  # fmt: skip


def test_before_confirmation_nothing_is_handed_over_and_the_front_is_known() -> None:
    two = spec(objectives=[{"metric": "value"}, {"metric": "energy_j", "direction": "minimize"}])
    trials = [trial(0, 1, [10.0, 1.0]), trial(1, 2, [20.0, 2.0]), trial(2, 3, [15.0, 3.0])]
    assert [one.trial.number for one in pareto(two, trials)] == [1, 0]
    found = decide(two, trials)
    assert found.verdict == "none-kept" and found.front == [1, 0] and found.best is None


def test_an_interval_that_is_looked_at_after_each_round_holds() -> None:
    rng, outside = np.random.default_rng(0), 0
    for _ in range(600):
        pairs = [(float(value), 1.0) for value in np.exp(rng.normal(0.0, 0.1, 7))]
        looks = [gain_in_rounds(pairs[:n], maximize=True, most=7) for n in range(3, 8)]
        outside += any(one is not None and one.lo is not None and not one.lo <= 0 <= (one.hi or 0) for one in looks)
    assert 0.07 <= outside / 600 <= 0.13
    early = gain_in_rounds([(1.1, 1.0)] * 2, maximize=True, most=7)
    assert early is not None and early.lo is None and early.runs == 2


@pytest.mark.parametrize("rivals", [3, 8])
def test_the_interval_of_the_luckiest_of_several_holds_too(rivals: int) -> None:
    """All equal to the one in use: whoever has the highest lower end is believed, and rounds end when it is above 0."""
    rng, missed = np.random.default_rng(5), 0
    for _ in range(300):
        base, tried = rng.normal(0.0, 0.1, 7), rng.normal(0.0, 0.1, (rivals, 7))
        for n in range(3, 8):
            found = [
                gain_in_rounds(list(zip(np.exp(one[:n]), np.exp(base[:n]), strict=True)), maximize=True, most=7, rivals=rivals)
                for one in tried
            ]  # fmt: skip
            ends = [(one.lo, one.hi) for one in found if one is not None and one.lo is not None and one.hi is not None]
            lo, hi = max(ends)
            if lo > 0 or all(high < 0 for _, high in ends):
                break
        missed += not lo <= 0 <= hi
    assert missed / 300 <= 0.14


def test_runs_that_differ_by_orders_of_magnitude_have_an_interval_all_the_same() -> None:
    wild = gain_in_rounds([(1e-300, 1e300), (1.0, 1.0), (1e300, 1e-300)], maximize=True, most=64, rivals=16)
    assert wild is not None and wild.lo == -100.0 and wild.hi is not None and wild.hi > 1e20


def test_students_t() -> None:
    # scipy.stats.t.isf(level / 2, freedom)
    for level, freedom, t in ((0.1, 2, 2.91999), (0.05, 3, 3.18245), (0.003, 6, 4.80024), (0.07, 63, 1.84323)):
        assert t_beyond(level, freedom) == pytest.approx(t, rel=1e-4)


def test_intervals() -> None:
    one = interval_of([3.0])
    assert (one.mean, one.lo, one.hi, one.runs) == (3.0, None, None, 1)
    # scipy.stats.t.interval(0.9, 4, 3, scale=sqrt(2.5 / 5))
    five = interval_of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert five.lo == pytest.approx(3 - 2.1318 * 0.70711, abs=1e-3)
    assert five.hi == pytest.approx(3 + 2.1318 * 0.70711, abs=1e-3)
    many = interval_of([0.0, 1.0] * 50)
    assert many.hi == pytest.approx(0.5 + 1.66039 * 0.0502519, abs=1e-4)
    assert gain_of([(1.0, 0.0)], maximize=True) is None and gain_of([], maximize=True) is None
    halved = gain_of([(50.0, 100.0), (50.0, 100.0)], maximize=False)
    assert halved is not None and halved.mean == pytest.approx(100.0)


def test_a_run_without_any_good_request_has_no_ratio_but_the_means_have() -> None:
    # Means 30 and 10, variances 300 and 100, covariance 150: the second's mean may be 0, so the gain has no end above.
    zeros = [(20.0, 0.0), (50.0, 20.0), (20.0, 10.0)]
    found = gain_of(zeros, maximize=True)
    assert found is not None and found.mean == pytest.approx(200.0)
    assert found.lo == pytest.approx(53.86, abs=0.01) and found.hi is None and word_of(found) == "faster"
    assert span_of(found, "3 rounds") == "+200.0 %, 90 % interval above +53.9 % (3 rounds)"
    fewer = gain_of(zeros, maximize=False)
    assert fewer is not None and fewer.lo is None and word_of(fewer) == "slower"
    assert fewer.hi == pytest.approx(-53.86, abs=0.01) and "below -53.9 %" in span_of(fewer, "3 rounds")
    # At a look after three of eight rounds both might well reach nothing.
    in_rounds = gain_in_rounds(zeros, maximize=True, most=8)
    assert in_rounds is not None and (in_rounds.lo, in_rounds.hi, in_rounds.runs) == (None, None, 3)
    wild = gain_of([(1e300, 0.0), (1e300, 1e-300), (1.0, 1e-10)], maximize=True)
    assert wild is None or wild.mean > 1e20
    both = gain_of([(0.0, 5.0), (4.0, 6.0), (3.0, 4.0), (2.0, 5.0)], maximize=True)
    # Fieller's interval of 2.25 / 5 with covariance 0.8333 and variances 2.9167 and 0.6667, t 2.3534.
    assert both is not None and both.lo is not None and both.hi is not None
    assert both.lo < 100 * (2.25 / 5 - 1) < both.hi < 0.0


def test_the_interval_by_differences_takes_neither_mean_as_known() -> None:
    """Of a configuration in use that often reaches nothing: its own mean is as uncertain as the other's."""
    rng, inside, as_if_known, of = np.random.default_rng(11), 0, 0, 0
    for _ in range(1500):
        old = np.where(rng.random(8) < 0.5, 0.0, rng.normal(20.0, 3.0, 8))  # 10 on average
        new = rng.normal(30.0, 6.0, 8)
        if not 0 < np.count_nonzero(old) < 8:
            continue  # ratios of all rounds, or nothing that it could be a share of
        found = gain_of(list(zip(new.tolist(), old.tolist(), strict=True)), maximize=True)
        assert found is not None
        of += 1
        inside += (found.lo is None or found.lo <= 200.0) and (found.hi is None or found.hi >= 200.0)
        gains = 100 * (new - old) / old.mean()
        as_if_known += abs(float(gains.mean()) - 200.0) <= 1.8946 * float(gains.std(ddof=1)) / 8**0.5
    assert inside / of >= 0.87 and as_if_known / of <= 0.80, (inside, as_if_known, of)
