"""What the store says to those who run pods: which attempts are held, and why a trial waits."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import pytest

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import LeasedTrial, Outcome, TrialState, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask
from controlplane.store import references, trials
from controlplane.store.database import Database
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
from controlplane.store.references import References
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import WAITS, Trials


@pytest.fixture
def leased(database: Database, spec: TuningSpec, now: datetime) -> LeasedTrial:
    Jobs(database).create("j", tenant="team", name="n", spec=spec, now=now)
    asks = [Ask(number=i, setting={"a": i + 1}, canonical=f"c{i}", why="start", seed=i) for i in range(2)]
    assert Studies(database).append("j", asks, now=now)
    taken = Trials(database).lease("j/0", owner="w", seconds=30, now=now)
    assert taken is not None
    return taken


def test_only_attempts_that_somebody_holds_now(database: Database, leased: LeasedTrial, now: datetime) -> None:
    store = Trials(database)
    asked = [("j", 0), ("j", 1), ("gone", 0)]
    assert store.leases(asked, now=now) == {("j", 0, 1)}
    assert store.leases([], now=now) == set()
    assert store.leases(asked, now=now + timedelta(seconds=31)) == set()  # silent for a whole lease
    store.tell(leased, Outcome(verdict=Verdict.INFRASTRUCTURE, reason="lost"), now=now)
    assert store.leases(asked, now=now) == set()
    again = store.lease("j/0", owner="other", seconds=30, now=now)
    assert again is not None and store.leases(asked, now=now) == {("j", 0, 2)}


def test_why_a_trial_waits_stands_at_trial_and_job(database: Database, leased: LeasedTrial, now: datetime) -> None:
    store, jobs = Trials(database), Jobs(database)
    store.waits(leased, "no node takes its pod", now=now)
    job = jobs.get("j")
    assert (job.reason, job.message) == (WAITS, "trial 0: no node takes its pod")
    assert Studies(database).trials_from("j", 0)[0].reason == "no node takes its pod"
    store.waits(leased, "", now=now)
    job = jobs.get("j")
    assert (job.reason, job.message) == ("", "") and Studies(database).trials_from("j", 0)[0].reason == ""
    kinds = [event.kind for event in EventLog(database).after("j", 0)]
    assert kinds[-2:] == ["waits", "begins"]


def test_an_attempt_that_ended_waits_no_more(database: Database, leased: LeasedTrial, now: datetime) -> None:
    store, jobs = Trials(database), Jobs(database)
    other = store.lease("j/1", owner="w", seconds=30, now=now)
    assert other is not None
    lost = Outcome(verdict=Verdict.INFRASTRUCTURE, reason="no node in all its time")
    store.waits(leased, "no node takes its pod", now=now)
    store.tell(other, lost, now=now)
    assert jobs.get("j").reason == WAITS  # another one's word
    store.tell(leased, lost, now=now)
    job = jobs.get("j")
    assert (job.reason, job.message) == ("", "")


def test_a_word_of_a_lease_that_has_passed_on_counts_for_nothing(
    database: Database, leased: LeasedTrial, now: datetime
) -> None:
    store = Trials(database)
    later = now + timedelta(seconds=31)
    assert store.lease("j/0", owner="other", seconds=30, now=later) is not None
    store.waits(leased, "late", now=later)
    assert Jobs(database).get("j").reason == ""


def test_a_users_word_stays(database: Database, leased: LeasedTrial, now: datetime) -> None:
    Steering(database).pause("j", now=now)
    before = Jobs(database).get("j")
    Trials(database).waits(leased, "no node", now=now)
    after = Jobs(database).get("j")
    assert (after.state, after.reason, after.message) == (before.state, before.reason, before.message)


def test_a_wait_in_vain_costs_no_attempt_and_still_says_why(
    database: Database, leased: LeasedTrial, now: datetime
) -> None:
    store = Trials(database)
    waited = Outcome(verdict=Verdict.INFRASTRUCTURE, reason="no node takes its pod", waited=True)
    taken = leased
    for turn in range(30):  # far beyond the attempts of any job
        store.waits(taken, "no node takes its pod", now=now)
        assert store.tell(taken, waited, now=now)
        (trial, _) = Studies(database).trials_from("j", 0)
        assert (trial.state, trial.lost, trial.attempt) == (TrialState.WAITING, 0, turn + 1)
        assert trial.reason == "no node takes its pod"
        job = Jobs(database).get("j")
        assert (job.reason, job.message) == (WAITS, "trial 0: no node takes its pod")
        again = store.lease("j/0", owner="w", seconds=30, now=now)
        assert again is not None
        taken = again
    store.waits(taken, "", now=now)
    assert Jobs(database).get("j").reason == ""


def test_waiting_in_vain_has_an_end_without_hours_too(
    database: Database, leased: LeasedTrial, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "_WAITED_MAX", 2)
    store, ended = Trials(database), 0
    attempt: LeasedTrial | None = leased
    while attempt is not None:
        outcome = Outcome(verdict=Verdict.INFRASTRUCTURE, reason="no node", waited=True)
        assert store.tell(attempt, outcome, now=now)
        ended += 1
        attempt = store.lease(leased.id, owner="w", seconds=30, now=now)
    assert Studies(database).trial(leased.job, leased.number).state is TrialState.FAILED
    assert ended == 5  # two for nothing, and the three that the job allows


def test_when_the_jobs_hours_are_over_waiting_counts(database: Database, spec: TuningSpec, now: datetime) -> None:
    budget = spec.budget.model_copy(update={"hours": 1.0})
    Jobs(database).create("j", tenant="team", name="n", spec=spec.model_copy(update={"budget": budget}), now=now)
    asks = [Ask(number=0, setting={"a": 1}, canonical="c", why="start", seed=1)]
    assert Studies(database).append("j", asks, now=now)
    store = Trials(database)
    waited = Outcome(verdict=Verdict.INFRASTRUCTURE, reason="no node takes its pod", waited=True)
    late = now + timedelta(hours=1)
    lost = []
    for at in (now, now + timedelta(minutes=59), late, late, late):
        taken = store.lease("j/0", owner="w", seconds=30, now=at)
        if taken is None:
            break
        store.tell(taken, waited, now=at)
        lost.append(Studies(database).trials_from("j", 0)[0].lost)
    attempts = spec.measuring.attempts
    assert lost == [0, 0, *range(1, min(attempts, 3) + 1)]
    assert (Studies(database).trials_from("j", 0)[0].state is TrialState.FAILED) is (attempts <= 3)


def test_references_are_kept_once_and_the_newest_of_them(
    database: Database, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "_KEPT", 3)
    store = References(database)
    assert store.found("a") == {}
    assert store.keep("a", "16 CPUs", "one", now=now) == "one"
    assert store.keep("a", "16 CPUs", "two", now=now) == "one"  # what came first stands
    assert store.keep("a", "32 CPUs", "three", now=now + timedelta(seconds=1)) == "three"
    assert store.found("a") == {"16 CPUs": "one", "32 CPUs": "three"} and store.found("b") == {}
    for n in range(3):
        store.keep("b", f"{n} CPUs", "x", now=now + timedelta(seconds=2 + n))
    assert store.found("a") == {} and len(store.found("b")) == 3
    with pytest.raises(InvalidSpec, match="too long"):
        store.keep("c", "x", "y" * (1 << 19), now=now)


def test_two_workers_that_keep_at_once_agree(database: Database, now: datetime) -> None:
    stands: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: stands.append(References(database).keep("a", "h", f"text {n}", now=now)))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stands) == 4 and len(set(stands)) == 1
    assert References(database).found("a") == {"h": stands[0]}
