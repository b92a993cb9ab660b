"""A database that is full or read-only for a while and clocks that jump: everything is measured and told once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta

import pytest

import tuner.work
from controlplane.loops.tuning import TuningDriver
from controlplane.loops.tuning_runs import DriverProcess
from controlplane.model.ports import StopSignal
from controlplane.model.tuning import JobState, LeasedTrial, Outcome
from controlplane.model.tuning_job import TuningSpec
from controlplane.store.database import Database
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.testing.null_runner import NullRunner, NullSampler, digest_of
from tests.faulty_stores import full, read_only
from tests.perf.bench_trial_overhead import spec_of
from tests.perf.tuning_cluster import wait_until
from tests.unit.store.conftest import NOW
from tuner.embedded import LocalQueue
from tuner.work import Work

TRIALS = 12
# Of the clock that the store is told: pauses before a trial is sent again are over sooner.
_TIMES = 40
_LEASE_S = 200


class Counting:
    """Says how many attempts were begun, and lets one of them wait until `go`."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = threading.Event()

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        self.begun += 1
        if self.begun == 3:
            self.go.wait(30)
        return NullRunner().run(leased, spec, stop=stop)


def quick() -> Callable[[], datetime]:
    began = time.monotonic()
    return lambda: NOW + timedelta(seconds=_TIMES * (time.monotonic() - began))


@contextmanager
def service(
    database: Database, runner: NullRunner | Counting, clocks: Callable[[], Callable[[], datetime]]
) -> Iterator[None]:
    """A driver's process and two workers, as threads, each with a clock of its own."""
    queue = LocalQueue(lambda trial: work.on(trial), parallel=2)
    store = Trials(database)
    work = Work(store=store, runner=runner, queue=queue, owner="w", now=clocks(), lease_s=_LEASE_S)
    driver = TuningDriver(
        database=database,
        queue=queue,
        sampler=lambda spec: NullSampler(spec.seed),
        canonical=lambda spec: digest_of,
        now=clocks(),
    )
    process = DriverProcess(driver, sweep_s=0.05)
    process.start()
    try:
        yield
    finally:
        process.close()
        queue.close()


def all_told_once(database: Database) -> None:
    def over() -> bool:
        return Jobs(database).get("j").state is not JobState.RUNNING

    assert wait_until(over, 60.0), Jobs(database).get("j")
    record = Jobs(database).get("j")
    assert (record.state, record.counts.done) == (JobState.DONE, TRIALS), record
    assert len(Studies(database).measured("j")) == TRIALS
    told = [one.data["trial"] for one in EventLog(database).after("j", 0) if one.data.get("state") == "done"]
    assert sorted(told) == list(range(TRIALS))


@pytest.mark.parametrize("fault", [full, read_only])
def test_a_store_that_takes_nothing_for_a_while_loses_nothing(
    database: Database, fault: Callable[[Database], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner.work, "_TELL_EVERY_S", 0.05)
    Jobs(database).create("j", tenant="t", name="j", spec=spec_of(TRIALS, 2, 16), now=NOW)
    runner, clock = Counting(), quick()
    with service(database, runner, lambda: clock):
        assert wait_until(lambda: runner.begun >= 3, 30.0)
        with fault(database):
            runner.go.set()  # measured to its end while nobody can write it down
            time.sleep(0.5)
        all_told_once(database)


def test_clocks_that_jump_by_days_cost_attempts_at_most(database: Database) -> None:
    Jobs(database).create("j", tenant="t", name="j", spec=spec_of(TRIALS, 2, 16), now=NOW)
    rng = random.Random(5)

    def jumping() -> Callable[[], datetime]:
        steady, off = quick(), timedelta()

        def now() -> datetime:
            nonlocal off
            if rng.random() < 0.1:
                off = timedelta(days=rng.choice([-400, -1, 0, 1, 400]))
            return steady() + off

        return now

    with service(database, NullRunner(), jumping):
        all_told_once(database)
