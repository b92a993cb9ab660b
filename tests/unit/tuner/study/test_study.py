"""The order in which a sampler hears of results does not depend on the order in which they came."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from controlplane.model.errors import Refused
from controlplane.model.tuning import Proposal, Told, TrialPurpose, TrialState, Verdict
from controlplane.model.tuning_records import Ask, TrialRecord
from controlplane.testing.null_runner import digest_of
from tests.unit.store.conftest import NOW
from tuner.study import FAILED_IN_A_ROW, Study, window_of


@dataclass
class Recorder:
    """Asks for a hash of all it has heard: any difference in order or content shows in the next ask."""

    end: int = 10**9
    heard: dict[int, tuple[object, ...]] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)

    def tell(self, told: Told) -> None:
        self.told.append(told)
        if told.dropped:
            self.heard.pop(told.number, None)
        else:
            self.heard[told.number] = (told.verdict, tuple(told.values))

    def ask(self, number: int) -> Proposal:
        if number >= self.end:
            raise Refused("nothing is left", code="SpaceExhausted")
        known = repr((number, sorted(self.heard.items(), key=lambda item: item[0])))
        return Proposal(setting={"a": int(digest_of({"a": known})[:6], 16)}, reason="heard")


def record(ask: Ask, state: TrialState = TrialState.WAITING) -> TrialRecord:
    return TrialRecord(
        job="j",
        number=ask.number,
        state=state,
        purpose=ask.purpose,
        setting=ask.setting,
        canonical=ask.canonical,
        why=ask.why,
        seed=ask.seed,
        attempt=0,
        lost=0,
        asked_at=NOW,
    )


def ended(trial: TrialRecord, rng: random.Random) -> TrialRecord:
    """A result that depends on the setting alone."""
    kind = trial.setting["a"] % 7  # type: ignore[operator]
    state = {0: TrialState.INFEASIBLE, 1: TrialState.FAILED}.get(kind, TrialState.DONE)
    objectives = [float(trial.setting["a"])] if state is TrialState.DONE else None
    return trial.model_copy(update={"state": state, "objectives": objectives})


def run(parallel: int, order: random.Random, *, budget: int = 30, rebuild: float = 0.0) -> list[TrialRecord]:
    """A study in which trials end in the order that `order` draws, and drivers are replaced now and then."""
    trials: list[TrialRecord] = []
    study = Study(Recorder(), parallel, digest_of)
    while True:
        if order.random() < rebuild:
            study = Study(Recorder(), parallel, digest_of)
        study.see(trials[study.first_open :])
        asks = study.asks(budget)
        assert all(ask.number == len(trials) + i for i, ask in enumerate(asks))
        trials += [record(ask) for ask in asks]
        open_ones = [trial for trial in trials if not trial.final]
        assert len(open_ones) <= parallel and study.under_way == len(open_ones)
        if not open_ones:
            assert study.over(budget)
            return trials
        assert not study.over(budget)
        one = order.choice(open_ones)
        trials[one.number] = ended(one, order)


@pytest.mark.parametrize("parallel", [1, 2, 4, 7])
def test_the_same_questions_whatever_ends_first_and_whoever_dies(parallel: int) -> None:
    runs = [run(parallel, random.Random(seed), rebuild=0.3 * (seed % 2)) for seed in range(6)]
    assert len(runs[0]) == 30
    for other in runs[1:]:
        assert [trial.setting for trial in other] == [trial.setting for trial in runs[0]]


def test_one_at_a_time_knows_every_result_at_once() -> None:
    assert window_of(1) == 1
    sampler = Recorder()
    study = Study(sampler, 1, digest_of)
    study.see([])
    (first,) = study.asks(5)
    assert study.asks(5) == []
    study.see([record(first, TrialState.INFEASIBLE)])
    study.asks(5)
    assert sampler.heard[0] == (Verdict.INFEASIBLE, ())


def test_trials_without_a_result_are_forgotten_by_the_sampler() -> None:
    sampler = Recorder()
    study = Study(sampler, 1, digest_of)
    (first,) = study.asks(5)
    study.see([record(first, TrialState.FAILED)])
    study.asks(5)
    assert 0 not in sampler.heard and sampler.told[1].dropped


def test_confirmations_and_baselines_are_nothing_to_the_sampler() -> None:
    sampler = Recorder()
    study = Study(sampler, 1, digest_of)
    confirm = Ask(number=0, setting={"a": 1}, canonical="x", purpose=TrialPurpose.CONFIRM)
    study.see([record(confirm, TrialState.DONE).model_copy(update={"objectives": [1.0]})])
    assert [ask.number for ask in study.asks(5)] == [1]
    assert [told.number for told in sampler.told] == [1]


def test_what_was_asked_before_a_sampler_ran_dry_is_still_measured() -> None:
    study = Study(Recorder(end=2), 4, digest_of)
    assert [ask.number for ask in study.asks(9)] == [0, 1]
    with pytest.raises(Refused):
        study.asks(9)


def test_many_failures_in_a_row_stop_the_asking_until_somebody_resumes() -> None:
    study = Study(Recorder(), 1, digest_of)
    study.see([])
    trials: list[TrialRecord] = []
    for _ in range(FAILED_IN_A_ROW):
        assert study.failing() is None
        trials += [record(ask, TrialState.FAILED) for ask in study.asks(99)]
        trials[-1] = trials[-1].model_copy(update={"reason": f"no node {len(trials)}"})
        study.see(trials[study.first_open :])
    assert study.failing() == f"no node {FAILED_IN_A_ROW}"
    fresh = Study(Recorder(), 1, digest_of)
    fresh.see(trials)
    assert fresh.failing() is None


def test_what_a_driver_keeps_does_not_grow() -> None:
    study = Study(Recorder(), 2, digest_of)
    for _ in range(200):
        asks = study.asks(1000)
        study.see([record(ask, TrialState.DONE).model_copy(update={"objectives": [1.0]}) for ask in asks])
    assert study.first_open > 200 and len(study._known) < 20
