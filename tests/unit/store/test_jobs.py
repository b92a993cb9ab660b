"""Jobs: made once per key, listed by cursor, steered by their users."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import pytest

from controlplane.model.errors import InvalidSpec, Refused, UnknownName
from controlplane.model.tuning import JobState, TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask
from controlplane.store.database import Database
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import IdempotencyKey, Jobs
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.store.upkeep import Retention, Upkeep


def make(database: Database, spec: TuningSpec, now: datetime, name: str = "n", **more: object) -> str:
    return Jobs(database).create(name, tenant="t", name=name, spec=spec, now=now, **more)[0].id  # type: ignore[arg-type]


def asks(n: int, first: int = 0) -> list[Ask]:
    return [Ask(number=i, setting={"a": i + 1}, canonical="same", seed=i) for i in range(first, first + n)]


def test_a_job_reads_back_as_it_was_written(database: Database, spec: TuningSpec, now: datetime) -> None:
    made, new = Jobs(database).create("j", tenant="t", name="n", spec=spec, now=now)
    assert new and made == Jobs(database).get("j") == Jobs(database).named("t", "n")
    assert (made.spec, made.state, made.budget, made.created_at) == (spec, JobState.RUNNING, 20, now)
    assert Trials(database).spec("j") == spec


def test_a_name_is_used_once_per_tenant_until_deleted(database: Database, spec: TuningSpec, now: datetime) -> None:
    make(database, spec, now)
    with pytest.raises(Refused) as caught:
        Jobs(database).create("other", tenant="t", name="n", spec=spec, now=now)
    assert caught.value.reason == "AlreadyExists"
    Jobs(database).create("elsewhere", tenant="u", name="n", spec=spec, now=now)
    Steering(database).delete("n", now=now)
    Jobs(database).create("other", tenant="t", name="n", spec=spec, now=now)


def test_a_repeated_key_gets_the_first_answer(database: Database, spec: TuningSpec, now: datetime) -> None:
    jobs = Jobs(database)
    key = IdempotencyKey("k", "body")
    first, new = jobs.create("one", tenant="t", name="n", spec=spec, now=now, idempotency=key)
    again, newer = jobs.create("two", tenant="t", name="n", spec=spec, now=now, idempotency=key)
    assert (first, new, newer) == (again, True, False)
    with pytest.raises(Refused) as caught:
        jobs.create("two", tenant="t", name="m", spec=spec, now=now, idempotency=IdempotencyKey("k", "other"))
    assert caught.value.reason == "IdempotencyMismatch"
    jobs.create("two", tenant="u", name="m", spec=spec, now=now, idempotency=IdempotencyKey("k", "other"))
    Steering(database).delete("one", now=now)
    with pytest.raises(Refused) as gone:
        jobs.create("three", tenant="t", name="n", spec=spec, now=now, idempotency=key)
    assert gone.value.reason == "IdempotencyGone"


def test_a_name_that_is_taken_uses_up_no_key(database: Database, spec: TuningSpec, now: datetime) -> None:
    jobs = Jobs(database)
    make(database, spec, now)
    key = IdempotencyKey("k", "body")
    with pytest.raises(Refused, match="name"):
        jobs.create("x", tenant="t", name="n", spec=spec, now=now, idempotency=key)
    assert jobs.create("x", tenant="t", name="m", spec=spec, now=now, idempotency=key)[1]


def test_many_at_once_with_one_key_make_one_job(database: Database, spec: TuningSpec, now: datetime) -> None:
    jobs, found = Jobs(database), []
    gate = threading.Barrier(6)

    def create(i: int) -> None:
        gate.wait()
        found.append(
            jobs.create(f"j{i}", tenant="t", name="n", spec=spec, now=now, idempotency=IdempotencyKey("k", "body"))
        )

    threads = [threading.Thread(target=create, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and sum(new for _, new in found) == 1
    assert len({record.id for record, _ in found}) == 1 and len(jobs.list()) == 1


def test_lists_go_on_where_they_stopped(database: Database, spec: TuningSpec, now: datetime) -> None:
    jobs = Jobs(database)
    for i in range(7):
        make(database, spec, now + timedelta(seconds=i // 2), name=f"n{i}")
    seen: list[str] = []
    after = None
    while page := jobs.list(tenants=["t"], limit=3, after=after):
        seen += [one.id for one in page]
        after = (page[-1].created_at, page[-1].id)
        make(database, spec, now + timedelta(days=1), name=f"late{len(seen)}")
    assert seen == [f"n{i}" for i in reversed(range(7))]
    assert jobs.list(tenants=["nobody"]) == [] and jobs.list(states=[JobState.DONE]) == []


def test_steering_twice_changes_nothing_and_wrong_turns_are_refused(
    database: Database, spec: TuningSpec, now: datetime
) -> None:
    job, steering = make(database, spec, now), Steering(database)
    paused = steering.pause(job, now=now)
    assert steering.pause(job, now=now) == paused and paused.generation == 2
    assert steering.resume(job, now=now).state is JobState.RUNNING
    cancelled = steering.cancel(job, now=now)
    assert steering.cancel(job, now=now + timedelta(hours=1)) == cancelled and cancelled.ended_at == now
    for act in (steering.pause, steering.resume):
        with pytest.raises(Refused) as caught:
            act(job, now=now)
        assert caught.value.reason == "WrongState" and caught.value.value == JobState.CANCELLED
    with pytest.raises(UnknownName):
        steering.pause("nobody", now=now)


def test_a_change_by_somebody_else_is_noticed(database: Database, spec: TuningSpec, now: datetime) -> None:
    job, steering = make(database, spec, now), Steering(database)
    seen = Jobs(database).get(job).generation
    Studies(database).append(job, asks(1), now=now)  # what happens by itself is no change of a user's
    steering.pause(job, now=now, generation=seen)
    with pytest.raises(Refused) as caught:
        steering.cancel(job, now=now, generation=seen)
    assert caught.value.reason == "Changed"
    with pytest.raises(Refused):
        steering.delete(job, now=now, generation=seen)


def test_an_extended_budget_runs_a_done_job_again(database: Database, spec: TuningSpec, now: datetime) -> None:
    job, steering = make(database, spec, now), Steering(database)
    done = steering.end(job, JobState.DONE, reason="BudgetSpent", message="", now=now)
    assert done is not None and done.ended_at == now
    assert steering.end(job, JobState.DONE, reason="BudgetSpent", message="", now=now) is None
    again = steering.extend(job, trials=30, now=now)
    assert (again.state, again.budget, again.ended_at, again.reason) == (JobState.RUNNING, 30, None, "")
    for wrong in (30, 29, 10_001):
        with pytest.raises(InvalidSpec, match="31 to 10000"):
            steering.extend(job, trials=wrong, now=now)
    steering.cancel(job, now=now)
    with pytest.raises(Refused, match="clone"):
        steering.extend(job, trials=40, now=now)


def test_a_paused_job_stays_paused_when_extended(database: Database, spec: TuningSpec, now: datetime) -> None:
    job, steering = make(database, spec, now), Steering(database)
    steering.pause(job, now=now)
    assert steering.extend(job, trials=30, now=now).state is JobState.PAUSED


def test_a_clone_asks_for_the_same_from_its_beginning(database: Database, spec: TuningSpec, now: datetime) -> None:
    job = make(database, spec, now)
    Studies(database).append(job, asks(2), now=now)
    copy = Jobs(database).clone(job, "copy", name="again", now=now)
    assert (copy.spec, copy.cloned_from, copy.counts.asked) == (spec, job, 0)


def test_asks_are_appended_in_their_order_and_once(database: Database, spec: TuningSpec, now: datetime) -> None:
    job, studies = make(database, spec, now), Studies(database)
    assert studies.append(job, asks(2), now=now)
    assert not studies.append(job, asks(2), now=now)  # another driver was first
    assert not studies.append(job, asks(1, first=3), now=now)  # a gap
    assert studies.append(job, asks(1, first=2), now=now)
    Steering(database).pause(job, now=now)
    assert not studies.append(job, asks(1, first=3), now=now)
    assert [one.number for one in studies.trials_from(job, 1)] == [1, 2]
    assert studies.running() == []


def test_what_was_decided_is_kept(database: Database, spec: TuningSpec, now: datetime) -> None:
    job = make(database, spec, now)
    assert Steering(database).decide(job, {"gainPct": 12.5}, now=now)
    assert Jobs(database).get(job).decision == {"gainPct": 12.5}
    assert not Steering(database).decide("nobody", {}, now=now)


def test_retention_removes_everything_of_a_job(database: Database, spec: TuningSpec, now: datetime) -> None:
    kept, ended, deleted = (make(database, spec, now, name=name) for name in ("kept", "ended", "deleted"))
    for job in (kept, ended, deleted):
        Studies(database).append(job, asks(2), now=now)
    Steering(database).cancel(ended, now=now)
    Steering(database).delete(deleted, now=now)
    upkeep, retention = Upkeep(database), Retention(ended_s=100.0, deleted_s=50.0)
    assert upkeep.purge(retention, now=now + timedelta(seconds=49)) == 0
    assert upkeep.purge(retention, now=now + timedelta(seconds=50)) == 1
    assert upkeep.purge(retention, now=now + timedelta(seconds=100)) == 1
    assert upkeep.purge(retention, now=now + timedelta(days=999)) == 0
    assert [one.id for one in Jobs(database).list()] == [kept]
    assert Studies(database).trials_from(ended, 0) == [] and EventLog(database).after(ended, 0) == []
    assert len(Studies(database).trials_from(kept, 0)) == 2


def test_pages_of_trials_are_filtered_and_sorted(database: Database, spec: TuningSpec, now: datetime) -> None:
    from tests.unit.store.test_trials import ok

    job, studies, trials = make(database, spec, now), Studies(database), Trials(database)
    studies.append(job, asks(5), now=now)
    for number, value in ((0, 2.0), (1, 9.0), (2, 5.0)):
        leased = trials.lease(f"{job}/{number}", owner="w", seconds=30, now=now)
        assert leased is not None and trials.tell(leased, ok(value), now=now)
    assert [one.number for one in studies.page(job, order="-value")] == [1, 2, 0]
    assert [one.number for one in studies.page(job, order="value", limit=1, offset=1)] == [2]
    assert [one.number for one in studies.page(job, states=[TrialState.WAITING])] == [3, 4]
    # Three trials that resolve to the same configuration: each a sample of its own.
    assert len(studies.measured(job, canonical="same")) == 3


def test_a_jobs_record_does_not_grow_with_its_trials(database: Database, spec: TuningSpec, now: datetime) -> None:
    job, studies = make(database, spec, now), Studies(database)
    sizes = []
    for first, n in ((0, 10), (10, 300)):
        studies.append(job, asks(n, first), now=now)
        sizes.append(len(Jobs(database).get(job).model_dump_json()))
    assert sizes[1] - sizes[0] < 8  # some digits
