"""Leases and results: whoever lost a lease can change nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, func, select, text, update

from controlplane.model.errors import InvalidSpec, UnknownName
from controlplane.model.tuning import LeasedTrial, Measurement, Outcome, TrialState, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask, told_of
from controlplane.store.database import Database
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.tables import trials
from controlplane.store.trials import Trials
from controlplane.store.upkeep import Upkeep


def ok(value: float = 1.0, ttft_ms: float | None = 150.0) -> Outcome:
    metrics = {"value": value, "ttft_p90_ms": ttft_ms}
    return Outcome(
        verdict=Verdict.OK, measurement=Measurement(metrics=metrics, definitions="1", duration_s=1.0), samples=b"raw"
    )


LOST = Outcome(verdict=Verdict.INFRASTRUCTURE, reason="the node went away")


@pytest.fixture
def job(database: Database, spec: TuningSpec, now: datetime) -> str:
    Jobs(database).create("j", tenant="t", name="n", spec=spec, now=now)
    asks = [Ask(number=i, setting={"a": i + 1}, canonical=f"c{i}", why="start", seed=i) for i in range(3)]
    assert Studies(database).append("j", asks, now=now)
    return "j"


def lease(database: Database, trial: str, now: datetime, owner: str = "w", seconds: float = 30.0) -> LeasedTrial | None:
    return Trials(database).lease(trial, owner=owner, seconds=seconds, now=now)


def states(database: Database, job: str) -> list[TrialState]:
    found = Studies(database).trials_from(job, 0)
    counts = Jobs(database).get(job).counts
    for state in TrialState:
        assert getattr(counts, state.value) == sum(one.state is state for one in found)
    assert counts.asked == len(found)
    return [one.state for one in found]


def test_a_trial_is_leased_once_and_told_once(database: Database, job: str, now: datetime) -> None:
    leased = lease(database, "j/0", now)
    assert leased is not None
    assert (leased.attempt, leased.setting, leased.number, leased.seed) == (1, {"a": 1}, 0, 0)
    assert lease(database, "j/0", now, "other") is None
    trials = Trials(database)
    assert trials.tell(leased, ok(3.0), now=now)
    assert not trials.tell(leased, ok(4.0), now=now)
    assert lease(database, "j/0", now + timedelta(days=9)) is None
    first = Studies(database).trials_from(job, 0)[0]
    assert (first.state, first.objectives, first.violation) == (TrialState.DONE, [3.0], [-50.0])
    told = told_of(first)
    assert (told.verdict, told.values) == (Verdict.OK, [3.0])
    assert Studies(database).samples(job, 0, 1) == b"raw"
    assert states(database, job) == [TrialState.DONE, TrialState.WAITING, TrialState.WAITING]


def test_a_lease_that_ran_out_passes_on_and_its_old_owner_is_refused(
    database: Database, job: str, now: datetime
) -> None:
    trials = Trials(database)
    old = lease(database, "j/0", now)
    late = now + timedelta(seconds=31)
    new = lease(database, "j/0", late, "other")
    assert old is not None and new is not None and new.attempt == 2
    assert not trials.renew(old, seconds=30, now=late).ours
    assert not trials.tell(old, ok(1.0), now=late)
    assert trials.renew(new, seconds=30, now=late).ours
    assert trials.tell(new, ok(2.0), now=late)
    assert Studies(database).trials_from(job, 0)[0].objectives == [2.0]


def test_a_late_renewal_counts_while_nobody_has_taken_the_trial(database: Database, job: str, now: datetime) -> None:
    leased = lease(database, "j/0", now)
    assert leased is not None
    late = now + timedelta(seconds=300)
    assert Trials(database).renew(leased, seconds=30, now=late).ours
    assert lease(database, "j/0", late, "other") is None


def test_attempts_without_a_result_are_used_up(database: Database, job: str, now: datetime) -> None:
    trials = Trials(database)
    for attempt in (1, 2, 3):
        leased = lease(database, "j/0", now)
        assert leased is not None and leased.attempt == attempt
        assert trials.tell(leased, LOST, now=now)
    assert lease(database, "j/0", now) is None
    failed = Studies(database).trials_from(job, 0)[0]
    assert (failed.state, failed.reason, failed.lost) == (TrialState.FAILED, "the node went away", 3)
    assert told_of(failed).dropped


def test_attempts_that_ended_with_their_worker_are_not_lost_within_bounds(
    database: Database, job: str, now: datetime
) -> None:
    trials, ended = Trials(database), LOST.model_copy(update={"interrupted": True})
    for attempt in range(1, 16 + 3 + 1):
        leased = lease(database, "j/0", now)
        assert leased is not None and leased.attempt == attempt
        assert trials.tell(leased, ended, now=now)
        assert Studies(database).trials_from(job, 0)[0].lost == max(0, attempt - 16)
    assert lease(database, "j/0", now) is None
    assert Studies(database).trials_from(job, 0)[0].state is TrialState.FAILED


def test_a_worker_that_dies_each_time_uses_them_up_too(database: Database, job: str, now: datetime) -> None:
    at = now
    for _ in range(3):
        assert lease(database, "j/0", at) is not None
        at += timedelta(seconds=31)
    assert Upkeep(database).reap(now=at) == []
    assert states(database, job)[0] is TrialState.FAILED


def test_the_reaper_puts_silent_workers_trials_back(database: Database, job: str, now: datetime) -> None:
    assert lease(database, "j/1", now) is not None
    upkeep = Upkeep(database)
    assert upkeep.reap(now=now + timedelta(seconds=29)) == []
    assert upkeep.reap(now=now + timedelta(seconds=30)) == ["j/1"]
    assert upkeep.reap(now=now + timedelta(seconds=30)) == []
    assert upkeep.waiting() == ["j/0", "j/1", "j/2"]
    assert states(database, job) == [TrialState.WAITING] * 3


def test_a_renewal_between_the_reapers_look_and_its_hand_saves_the_lease(
    database: Database, job: str, now: datetime
) -> None:
    leased = lease(database, "j/0", now)
    assert leased is not None
    late = now + timedelta(seconds=31)

    class Late(Database):
        """Renews as soon as the reaper has looked."""

        @contextmanager
        def read(self) -> Iterator[Connection]:
            with super().read() as connection:
                yield connection
            assert Trials(database).renew(leased, seconds=30, now=late).ours

    assert Upkeep(Late(database.engine)).reap(now=late) == []
    assert Trials(database).renew(leased, seconds=30, now=late).ours


def test_a_renewal_under_way_is_waited_for_by_whoever_gives_its_lease_up(
    database: Database, job: str, now: datetime
) -> None:
    if database.embedded:
        pytest.skip("one writer at a time")
    leased = lease(database, "j/0", now)
    assert leased is not None
    late = now + timedelta(seconds=31)
    found: list[list[str]] = []
    reaper = threading.Thread(target=lambda: found.append(Upkeep(database).reap(now=late)))
    with database.write() as connection:
        connection.execute(update(trials).where(trials.c.number == 0).values(expires_at=late + timedelta(seconds=30)))
        reaper.start()
        waits = select(func.count()).select_from(text("pg_stat_activity")).where(text("wait_event_type = 'Lock'"))
        for _ in range(3000):
            with database.read() as other:
                if other.execute(waits).scalar_one():
                    break
            time.sleep(0.01)
        else:
            pytest.fail("nobody waits for the renewal")
    reaper.join()
    assert found == [[]]
    assert Trials(database).renew(leased, seconds=30, now=late).ours


@pytest.mark.parametrize("words", ["a\0log", "a\ud800log"])
def test_words_of_a_log_are_kept_whatever_they_hold(database: Database, job: str, now: datetime, words: str) -> None:
    leased = lease(database, "j/0", now)
    assert leased is not None
    Trials(database).waits(leased, words, now=now)
    outcome = Outcome(verdict=Verdict.INFEASIBLE).model_copy(update={"reason": words})
    assert Trials(database).tell(leased, outcome, now=now)
    found = Studies(database).trial(job, 0)
    assert (found.state, found.reason[0], found.reason[2:]) == (TrialState.INFEASIBLE, "a", "log")


def test_a_clock_that_jumps_back_does_not_keep_a_dead_lease_for_ever(
    database: Database, job: str, now: datetime
) -> None:
    assert lease(database, "j/0", now + timedelta(days=400)) is not None
    assert Upkeep(database).reap(now=now) == ["j/0"]


def test_a_measurement_without_the_objective_is_invalid(database: Database, job: str, now: datetime) -> None:
    trials = Trials(database)
    leased = lease(database, "j/0", now)
    assert leased is not None
    assert trials.tell(leased, ok(1.0, ttft_ms=None), now=now)
    row = Studies(database).trials_from(job, 0)[0]
    assert (row.state, row.verdict) == (TrialState.WAITING, Verdict.INVALID)
    assert row.reason == "the measurement reports no ttft_p90_ms"
    # What was measured is kept, with the verdict beside it.
    assert [one.verdict for one in Studies(database).measured(job, number=0)] == [Verdict.INVALID]


def test_infeasible_is_final_and_told(database: Database, job: str, now: datetime) -> None:
    leased = lease(database, "j/0", now)
    assert leased is not None
    assert Trials(database).tell(leased, Outcome(verdict=Verdict.INFEASIBLE, reason="out of memory"), now=now)
    row = Studies(database).trials_from(job, 0)[0]
    assert row.state is TrialState.INFEASIBLE and told_of(row).verdict is Verdict.INFEASIBLE


def test_paused_jobs_give_out_nothing_and_take_results(database: Database, job: str, now: datetime) -> None:
    leased = lease(database, "j/0", now)
    steering = Steering(database)
    steering.pause(job, now=now)
    assert leased is not None and lease(database, "j/1", now) is None
    assert Upkeep(database).waiting() == []
    assert Trials(database).renew(leased, seconds=30, now=now).ours
    assert Trials(database).tell(leased, ok(), now=now)
    steering.resume(job, now=now)
    assert lease(database, "j/1", now) is not None


def test_cancelling_ends_what_waits_and_tells_what_runs(database: Database, job: str, now: datetime) -> None:
    trials = Trials(database)
    running, kept = lease(database, "j/0", now), lease(database, "j/1", now)
    assert running is not None and kept is not None
    Steering(database).cancel(job, now=now)
    assert trials.renew(running, seconds=30, now=now).cancelled
    assert trials.tell(running, Outcome(verdict=Verdict.INFRASTRUCTURE, reason="cancelled"), now=now)
    assert trials.tell(kept, ok(), now=now)  # it was measured: nothing is thrown away
    assert states(database, job) == [TrialState.CANCELLED, TrialState.DONE, TrialState.CANCELLED]


def test_a_worker_of_a_deleted_job_hears_of_it(database: Database, job: str, now: datetime) -> None:
    leased = lease(database, "j/0", now)
    assert leased is not None
    Steering(database).delete(job, now=now)
    assert Trials(database).renew(leased, seconds=30, now=now).cancelled
    assert Trials(database).tell(leased, LOST, now=now)
    assert lease(database, "j/1", now) is None


def test_trials_of_a_later_protocol_are_left_to_newer_workers(
    database: Database, job: str, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    from controlplane.store import trials as module

    monkeypatch.setattr(module, "PROTOCOL", 0)
    assert lease(database, "j/0", now) is None
    assert states(database, job) == [TrialState.WAITING] * 3


@pytest.mark.parametrize("trial", ["", "j", "j/", "j/x", "j/-1", "j/1/../2x", "j/٣", "j" * 99 + "/1"])
def test_messages_with_nonsense_are_named(database: Database, now: datetime, trial: str) -> None:
    with pytest.raises(UnknownName, match="is no trial"):
        lease(database, trial, now)


def test_unknown_trials_are_nothing_to_do(database: Database, job: str, now: datetime) -> None:
    assert lease(database, "j/9", now) is None
    assert lease(database, "gone/0", now) is None


@pytest.mark.parametrize("seconds", [0.0, -1.0, 3601.0])
def test_lengths_of_leases_are_bounded(database: Database, job: str, now: datetime, seconds: float) -> None:
    with pytest.raises(InvalidSpec, match="3600"):
        lease(database, "j/0", now, seconds=seconds)


def test_events_are_numbered_without_gaps(database: Database, job: str, now: datetime) -> None:
    leased = lease(database, "j/0", now)
    assert leased is not None
    Trials(database).tell(leased, LOST, now=now)
    log = EventLog(database)
    found = log.after(job, 0)
    assert [event.id for event in found] == list(range(1, len(found) + 1))
    assert [event.kind for event in found] == ["created", "asked", "asked", "asked", "leased", "told"]
    assert log.after(job, 5) == found[5:]
    assert Jobs(database).get(job).events == len(found)


def test_a_driver_reads_figures_with_its_trials(database: Database, job: str, now: datetime) -> None:
    leased = lease(database, f"{job}/1", now)
    assert leased is not None
    metrics = {"value": 2.0, "ttft_p90_ms": 150.0, "tpot_mean_ms": 7.5, "tpot_p50_ms": None, "steps": 40.0}
    measurement = Measurement(metrics=metrics, definitions="1", duration_s=1.0)
    assert Trials(database).tell(leased, Outcome(verdict=Verdict.OK, measurement=measurement), now=now)
    waiting, done, _ = Studies(database).measured_from(job, 0)
    assert told_of(done).figures == {"ttft_p90_ms": 150.0, "tpot_mean_ms": 7.5}
    assert told_of(done).seed == 1
    assert told_of(waiting).figures == {} and told_of(Studies(database).trials_from(job, 1)[0]).figures == {}
    assert [one.number for one in Studies(database).measured_from(job, 2)] == [2]
    assert done.model_dump(exclude={"figures"}) == Studies(database).trials_from(job, 1)[0].model_dump()
