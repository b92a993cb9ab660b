"""Jobs whose trials may be cut short: the bar is stored with the trial, the same whoever drives or measures, and what was
cut is never handed over."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controlplane.loops.tuning import TuningDriver
from controlplane.loops.tuning_runs import run_job
from controlplane.model.ports import StopSignal
from controlplane.model.tuning import Bar, LeasedTrial, Measurement, Outcome, Proposal, Told, TrialPurpose, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import TrialRecord, told_of
from controlplane.store.database import Database, open_database
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.testing.null_runner import digest_of
from controlplane.tuning_jobs import Confirmation
from tests.unit.store.conftest import NOW
from tuner.best_so_far import BestSoFar
from tuner.decision import candidates, decide, pareto
from tuner.embedded import LocalQueue
from tuner.study import Study
from tuner.work import Work

SPEC = TuningSpec.model_validate(
    {
        "target": {"kind": "engine", "engine": "openvino", "model": "m"},
        "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 1000}]},
        "objectives": [{"metric": "requests_per_s"}],
        "budget": {"trials": 30},
        "measuring": {"confirmTop": 3, "confirmRuns": 3, "attempts": 2},
    }
)
TOOK_MS = "e2e_mean_ms"


class Shuffled:
    """Whole numbers from the seed; every seventh one twice, in full."""

    def tell(self, told: Told) -> None: ...

    def ask(self, number: int) -> Proposal:
        value = random.Random(f"short {number - (number % 7 == 6)}").randint(1, 1000)
        return Proposal(setting={"a": value}, reason="drawn", full=number % 7 == 6)


class Obedient:
    """Cuts what cannot come near the bar, as a worker does. `old`: a worker that knows of no bars."""

    def __init__(self, *, old: bool = False) -> None:
        self.old = old

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        value = float(leased.setting.get("a", 1))  # the engine's own: the baseline
        best = None if self.old or leased.bar is None else leased.bar.value
        cut = best is not None and leased.bar is not None and value * leased.bar.pace < 0.95 * best
        share = 0.25 if cut else 1.0
        metrics = {"requests_per_s": value, TOOK_MS: 8e3 / value * (1 + 0.01 * (leased.number % 3))}
        measured = Measurement(metrics=metrics, definitions="null", duration_s=1.0, seed=leased.seed, share=share)
        return Outcome(verdict=Verdict.OK, measurement=measured, reason="cut short after 25 % of a run" if cut else "")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/x.db")
    upgrade(database)
    yield database
    database.close()


def made(database: Database, **fields: Any) -> None:
    Jobs(database).create("j", tenant="t", name="n", spec=SPEC.model_copy(update=fields), now=NOW)


def driver(database: Database, queue: LocalQueue) -> TuningDriver:
    return TuningDriver(
        database=database, queue=queue, sampler=lambda _: Shuffled(), canonical=lambda _: digest_of, now=lambda: NOW,
        closing=Confirmation(),
    )  # fmt: skip


def to_the_end(database: Database, runner: Obedient, *, steps: int | None = None) -> list[TrialRecord]:
    """`steps`: a driver lives no longer than this many; the next one is built from the store."""
    queue = LocalQueue(lambda trial: work.on(trial), parallel=1)
    work = Work(store=Trials(database), runner=runner, queue=queue, owner="me", now=lambda: NOW)
    left = [steps or 0]

    def over() -> bool:
        left[0] -= 1
        return left[0] < 0

    while Jobs(database).get("j").state.value == "running":
        left[0] = steps or 0
        run_job(driver(database, queue), queue, "j", sweep_s=0.05, until=over if steps else lambda: False)
    queue.close()
    return Studies(database).trials_from("j", 0)


def test_trials_are_held_against_the_best_so_far_and_what_was_cut_is_not_handed_over(database: Database) -> None:
    made(database)
    trials = to_the_end(database, Obedient())
    search = [one for one in trials if one.purpose is TrialPurpose.SEARCH]
    assert search[0].bar is None and all(one.bar is None for one in search if one.number % 7 == 6)
    best = 0.0
    for one in search:
        if one.bar is not None:
            assert one.bar.value == best
        assert one.objectives is not None
        best = best if one.short else max(best, one.objectives[0])
    assert search[1].bar is not None and search[-1].bar is not None
    assert search[-1].bar.pace < search[1].bar.pace, "what was measured again lies close"
    short = [one for one in search if one.short]
    assert len(short) >= 5 and all(one.share == 0.25 and "cut short" in one.reason for one in short)
    assert [told_of(one).short for one in search] == [one.short for one in search]
    assert all(one.bar is None and not one.short for one in trials if one.purpose is not TrialPurpose.SEARCH)
    cut = {one.canonical for one in short}
    confirmed = {one.canonical for one in trials if one.purpose is TrialPurpose.CONFIRM}
    assert confirmed and not confirmed & cut
    decision = decide(SPEC, trials)
    assert {one.number for one in decision.confirmed if one.number is not None} <= {
        one.number for one in search if not one.short
    }
    assert not set(decision.front) & {one.number for one in short}
    told = [event for event in EventLog(database).after("j", 0, limit=500) if event.kind == "told"]
    assert [event.data["trial"] for event in told if "share" in event.data] == [one.number for one in short]
    assert all("cut short" in event.data["reason"] for event in told if "share" in event.data)


def test_only_cut_trials_leave_nothing_to_confirm() -> None:
    given: dict[str, Any] = {
        "job": "j", "state": "done", "purpose": "search", "canonical": "c", "why": "", "seed": 0, "attempt": 1, "lost": 0,
        "asked_at": NOW, "objectives": [9.0], "violation": [], "setting": {"a": 9}, "number": 0, "share": 0.5,
    }  # fmt: skip
    trial = TrialRecord(**given)
    assert candidates(SPEC, [trial]) == pareto(SPEC, [trial]) == []
    assert Confirmation().asks(SPEC, [trial]) == []
    assert decide(SPEC, [trial]).verdict == "none-kept"


def test_a_driver_that_is_replaced_holds_trials_against_the_same(tmp_path: Path) -> None:
    found = []
    for steps in (None, 1, 4):
        database = open_database(f"sqlite:///{tmp_path}/{steps}.db")
        upgrade(database)
        made(database)
        found.append([(one.setting, one.bar, one.share) for one in to_the_end(database, Obedient(), steps=steps)])
        database.close()
    assert found[0] == found[1] == found[2]


def test_a_worker_that_knows_no_bars_measures_in_full(database: Database) -> None:
    made(database)
    trials = to_the_end(database, Obedient(old=True))
    assert any(one.bar is not None for one in trials) and not any(one.short for one in trials)


def test_a_lost_attempt_is_held_against_the_same_and_a_late_result_changes_nothing(database: Database) -> None:
    made(database)
    queue = LocalQueue(lambda _: True, parallel=1)
    one = driver(database, queue)
    trials = Trials(database)
    assert one.step("j")
    first = trials.lease("j/0", owner="a", seconds=9, now=NOW)
    assert first is not None and first.bar is None
    assert trials.tell(first, Obedient().run(first, SPEC, stop=queue), now=NOW)  # type: ignore[arg-type]
    assert one.step("j")
    early = trials.lease("j/1", owner="a", seconds=9, now=NOW)
    late = trials.lease("j/1", owner="b", seconds=9, now=NOW + timedelta(seconds=10))
    assert early is not None and late is not None
    assert early.bar == late.bar == Bar(value=float(first.setting["a"]), pace=BestSoFar(SPEC).pace())
    outcome = Obedient(old=True).run(late, SPEC, stop=queue)  # type: ignore[arg-type]
    assert trials.tell(late, outcome, now=NOW)
    assert not trials.tell(late, outcome, now=NOW)
    measured = outcome.measurement
    assert measured is not None
    short = outcome.model_copy(update={"measurement": measured.model_copy(update={"share": 0.3})})
    assert not trials.tell(early, short, now=NOW)
    assert Studies(database).trials_from("j", 1)[0].share == 1.0
    queue.close()


@pytest.mark.parametrize("parallel", [1, 3])
def test_bars_do_not_depend_on_which_trial_ends_first(parallel: int) -> None:
    def bars(seed: int) -> list[Bar | None]:
        order, trials = random.Random(seed), list[TrialRecord]()
        study = Study(Shuffled(), parallel, digest_of, BestSoFar(SPEC))
        while True:
            if order.random() < 0.2:
                study = Study(Shuffled(), parallel, digest_of, BestSoFar(SPEC))
            study.see(trials[study.first_open :])
            for ask in study.asks(24):
                given: dict[str, Any] = ask.model_dump() | {"job": "j", "state": "waiting", "attempt": 0, "lost": 0}
                trials.append(TrialRecord(**given, asked_at=NOW))
            waiting = [one for one in trials if not one.final]
            if not waiting:
                return [one.bar for one in trials]
            one = order.choice(waiting)
            value = float(one.setting["a"])
            ended = {"state": "done", "objectives": [value], "violation": [], "share": 1.0 if value > 300 else 0.25}
            trials[one.number] = TrialRecord.model_validate(one.model_dump() | ended)

    runs = [bars(seed) for seed in range(5)]
    assert any(bar is not None for bar in runs[0])
    assert all(other == runs[0] for other in runs)


def test_jobs_of_before_are_measured_in_full(database: Database) -> None:
    """Rows that a version without short runs wrote: neither share nor bar."""
    made(database)
    queue = LocalQueue(lambda _: True, parallel=1)
    assert driver(database, queue).step("j")
    row = Studies(database).trials_from("j", 0)[0]
    assert row.share is None and row.bar is None and not row.short
    queue.close()
