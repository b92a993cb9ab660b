"""What the store says to those who run pods: which attempts are held, and why a trial waits."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from controlplane.model.tuning import LeasedTrial, Outcome, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask
from controlplane.store.database import Database
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
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
