"""The end of a study: rounds of confirmation, and what their intervals allow to be said."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.model.tuning import Setting, TrialPurpose, TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask, TrialRecord
from controlplane.testing.null_runner import digest_of
from tuner.decision import candidates, confirm_asks, decide, pareto
from tuner.intervals import gain_of, interval_of

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


def test_intervals() -> None:
    one = interval_of([3.0])
    assert (one.mean, one.lo, one.hi, one.runs) == (3.0, None, None, 1)
    # scipy.stats.t.interval(0.9, 4, 3, scale=sqrt(2.5 / 5))
    five = interval_of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert five.lo == pytest.approx(3 - 2.1318 * 0.70711, abs=1e-3)
    assert five.hi == pytest.approx(3 + 2.1318 * 0.70711, abs=1e-3)
    many = interval_of([0.0, 1.0] * 50)
    assert many.hi == pytest.approx(0.5 + 1.66039 * 0.0502519, abs=1e-4)
    assert gain_of([(0.0, 1.0)], maximize=True) is None and gain_of([], maximize=True) is None
    halved = gain_of([(50.0, 100.0), (50.0, 100.0)], maximize=False)
    assert halved is not None and halved.mean == pytest.approx(100.0)
