"""The loop of tuning jobs over a real store: ends, pauses, sends again, and goes on after kill -9 at any step."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from controlplane.loops.tuning import EXHAUSTED, TuningDriver
from controlplane.loops.tuning_runs import run_job
from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.ports import StopSignal, TrialRunner
from controlplane.model.tuning import JobState, LeasedTrial, Outcome, Proposal, Told, TrialState, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import TrialRecord
from controlplane.store.database import Database, open_database
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.testing.null_runner import NullRunner, NullSampler, digest_of
from tests.unit.store.conftest import NOW, SPEC
from tuner.embedded import LocalQueue
from tuner.work import Work


class Asked:
    """A queue that only remembers."""

    def __init__(self) -> None:
        self.trials: list[str] = []

    def trial(self, trial: str) -> None:
        self.trials.append(trial)

    def job(self, job: str) -> None: ...


class Failing:
    """Says of every trial that it was lost."""

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        return Outcome(verdict=Verdict.INFRASTRUCTURE, reason="no node")


class Dry:
    """A grid of two."""

    def tell(self, told: Told) -> None: ...

    def ask(self, number: int) -> Proposal:
        if number >= 2:
            raise Refused("nothing is left", code=EXHAUSTED)
        return Proposal(setting={"a": number}, reason="grid")


class Broken:
    """A space in which nothing is allowed."""

    def tell(self, told: Told) -> None: ...

    def ask(self, number: int) -> Proposal:
        raise InvalidSpec("rules leave nothing", field="space.rules")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/x.db")
    upgrade(database)
    yield database
    database.close()


def job(database: Database, trials: int = 6, parallel: int = 2, hours: float | None = None, attempts: int = 1) -> str:
    budget = SPEC.budget.model_copy(update={"trials": trials, "hours": hours})
    # The clock of these tests stands still: a trial that was lost would wait for ever to be sent again.
    measuring = SPEC.measuring.model_copy(update={"attempts": attempts})
    spec = SPEC.model_copy(update={"budget": budget, "parallel": parallel, "limits": [], "measuring": measuring})
    Jobs(database).create("j", tenant="t", name="n", spec=spec, now=NOW)
    return "j"


def driver(
    database: Database,
    queue: Asked | LocalQueue,
    now: Callable[[], datetime] = lambda: NOW,
    sampler: Callable[[TuningSpec], NullSampler | Dry | Broken] = lambda spec: NullSampler(spec.seed),
) -> TuningDriver:
    return TuningDriver(database=database, queue=queue, sampler=sampler, canonical=lambda spec: digest_of, now=now)


def to_the_end(
    database: Database,
    runner: TrialRunner,
    now: Callable[[], datetime] = lambda: NOW,
    sampler: Callable[[TuningSpec], NullSampler | Dry | Broken] = lambda spec: NullSampler(spec.seed),
) -> list[TrialRecord]:
    queue = LocalQueue(lambda trial: work.on(trial), parallel=2)
    work = Work(store=Trials(database), runner=runner, queue=queue, owner="me", now=now)
    run_job(driver(database, queue, now, sampler), queue, "j", sweep_s=0.05)
    queue.close()
    return Studies(database).trials_from("j", 0)


def test_a_job_runs_to_the_end_of_its_budget(database: Database) -> None:
    job(database)
    trials = to_the_end(database, NullRunner())
    record = Jobs(database).get("j")
    assert (record.state, record.reason, record.counts.done) == (JobState.DONE, "BudgetSpent", 6)
    assert all(trial.state is TrialState.DONE for trial in trials)
    Steering(database).extend("j", trials=8, now=NOW)
    assert len(to_the_end(database, NullRunner())) == 8


def test_a_grid_at_its_end_ends_the_job(database: Database) -> None:
    job(database)
    assert len(to_the_end(database, NullRunner(), sampler=lambda spec: Dry())) == 2
    record = Jobs(database).get("j")
    assert (record.state, record.reason) == (JobState.DONE, EXHAUSTED)


def test_a_space_without_settings_fails_the_job_with_its_reason(database: Database) -> None:
    job(database)
    to_the_end(database, NullRunner(), sampler=lambda spec: Broken())
    record = Jobs(database).get("j")
    assert (record.state, record.reason) == (JobState.FAILED, "InvalidSpec")
    assert "space.rules: rules leave nothing" in record.message


def test_when_nothing_works_the_job_pauses_and_can_be_resumed(database: Database) -> None:
    job(database, trials=20, parallel=1)
    to_the_end(database, Failing())
    record = Jobs(database).get("j")
    assert (record.state, record.reason) == (JobState.PAUSED, "TrialsFail")
    assert "no node" in record.message and record.counts.failed == 5
    Steering(database).resume("j", now=NOW)
    to_the_end(database, NullRunner())
    record = Jobs(database).get("j")
    assert record.state is JobState.DONE and record.counts.done == 15


def test_a_short_job_of_which_nothing_works_ends_with_the_cause(database: Database) -> None:
    job(database, trials=3, parallel=1)
    to_the_end(database, Failing())
    record = Jobs(database).get("j")
    assert (record.state, record.counts.failed) == (JobState.DONE, 3)
    assert "3 trials were searched, none worked: no node" in record.message


def test_time_that_is_up_ends_the_job_after_what_is_under_way(database: Database) -> None:
    job(database, hours=1.0)
    queue, late = Asked(), NOW + timedelta(hours=1)
    assert driver(database, queue).step("j")
    assert driver(database, queue, lambda: late).step("j") and Jobs(database).get("j").counts.asked == 2
    for trial in queue.trials:
        leased = Trials(database).lease(trial, owner="w", seconds=9, now=late)
        assert leased is not None
        outcome = NullRunner().run(leased, SPEC, stop=Never())
        assert Trials(database).tell(leased, outcome, now=late)
    assert not driver(database, queue, lambda: late).step("j")
    assert Jobs(database).get("j").state is JobState.DONE


def test_waiting_trials_are_sent_again_ever_more_slowly(database: Database) -> None:
    job(database)
    clock = [NOW]
    queue = Asked()
    one = driver(database, queue, lambda: clock[0])
    one.sweep()
    assert queue.trials == ["j/0", "j/1"]
    times = []
    for second in range(1, 100):
        clock[0] = NOW + timedelta(seconds=second)
        before = len(queue.trials)
        one.sweep()
        if len(queue.trials) > before:
            times.append(second)
    assert times == [10, 30, 70]
    driver(database, queue, lambda: clock[0]).sweep()  # a new driver does not know what was sent
    assert queue.trials[-2:] == ["j/0", "j/1"]


def test_two_drivers_at_once_ask_every_question_once(database: Database) -> None:
    job(database, parallel=1)
    queue = Asked()
    one, other = driver(database, queue), driver(database, queue)
    for number in range(6):
        assert one.step("j") and other.step("j")
        leased = Trials(database).lease(f"j/{number}", owner="w", seconds=9, now=NOW)
        assert leased is not None
        assert Trials(database).tell(leased, NullRunner().run(leased, SPEC, stop=Never()), now=NOW)
    assert not other.step("j") and not one.step("j")
    assert sorted(queue.trials) == [f"j/{i}" for i in range(6)]


def test_a_job_that_cannot_be_brought_forward_holds_up_no_other(database: Database) -> None:
    job(database)
    Jobs(database).create("a", tenant="t", name="a", spec=SPEC.model_copy(update={"seed": 13}), now=NOW)

    def sampler(spec: TuningSpec) -> NullSampler:
        if spec.seed == 13:
            raise ZeroDivisionError
        return NullSampler(spec.seed)

    queue = Asked()
    one = driver(database, queue, sampler=sampler)
    assert set(one.sweep()) == {"a", "j"}, "both run on: the next sweep tries again"
    assert queue.trials == ["j/0", "j/1"]
    with pytest.raises(ZeroDivisionError):
        one.sweep(only="a")  # its own process says what is wrong


def test_a_deleted_or_unknown_job_is_nothing_to_do(database: Database) -> None:
    job(database)
    one = driver(database, Asked())
    assert one.step("j")
    Steering(database).delete("j", now=NOW)
    assert not one.step("j") and not one.step("nobody") and one.sweep() == []


class Never:
    def is_set(self) -> bool:
        return False

    def wait(self, timeout: float | None = None) -> bool:
        return False


def _run_and_die(url: str, commit: int, after: bool) -> None:
    """A whole run in a process that kills itself at its `commit`-th commit, before or after it."""
    database = open_database(url)
    seen = [0]

    def die(*_: object) -> None:
        seen[0] += 1
        if seen[0] == commit:
            if after:
                # The hook comes before the commit: let it happen, then die at the next thing this connection does.
                event.listen(database.engine, "begin", kill)
            else:
                kill()

    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    event.listen(database.engine, "commit", die)
    to_the_end(database, NullRunner())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_kill_9_at_every_step_loses_nothing_and_asks_the_same(tmp_path: Path, after: bool) -> None:
    fork = multiprocessing.get_context("fork")
    whole: list[object] | None = None
    commit = 0
    while True:
        url = f"sqlite:///{tmp_path}/{commit}.db"
        database = open_database(url)
        upgrade(database)
        job(database, trials=3, attempts=3)
        database.close()
        died = False
        if commit:
            child = fork.Process(target=_run_and_die, args=(url, commit, after))
            child.start()
            child.join()
            died = child.exitcode == -signal.SIGKILL
        database = open_database(url)
        # Long enough after it for every lease of the dead process to have run out.
        trials = to_the_end(database, NullRunner(), lambda: NOW + timedelta(minutes=5))
        record = Jobs(database).get("j")
        assert record.state is JobState.DONE and record.counts.done == 3
        assert len(Studies(database).measured("j")) == 3
        found: list[object] = [(trial.number, trial.setting, trial.objectives) for trial in trials]
        database.close()
        if whole is None:
            whole = found
        assert found == whole
        if commit and not died:
            assert commit > 10  # it was killed at each step of a run before it survived one
            return
        commit += 1
