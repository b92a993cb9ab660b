"""A job steered: paused, resumed, cancelled, extended, deleted by users; ended and decided by its driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, update

from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.tuning import JobState, TrialState
from controlplane.model.tuning_job import TRIALS_MAX
from controlplane.model.tuning_records import TuningJobRecord
from controlplane.store.change import change_job, note, row_of_job
from controlplane.store.database import Database
from controlplane.store.rows import job_of
from controlplane.store.tables import jobs, trials

_OPEN = (JobState.RUNNING, JobState.PAUSED)


@dataclass(frozen=True, slots=True)
class Steering:
    """What users say has a `generation`: refused if one of them has changed the job since it was read (If-Match).
    Saying the same thing twice changes nothing. Raises UnknownName, InvalidSpec, Refused."""

    database: Database

    def pause(
        self, job: str, *, now: datetime, generation: int | None = None, reason: str = "Paused"
    ) -> TuningJobRecord:
        """Gives out no more trials; those under way end. `reason`: whose request it is."""
        values = {"state": JobState.PAUSED.value, "reason": reason, "message": "by request"}
        return self._steer(job, "paused", values, (JobState.RUNNING,), now, generation)

    def resume(self, job: str, *, now: datetime, generation: int | None = None) -> TuningJobRecord:
        """Gives out trials again."""
        values = {"state": JobState.RUNNING.value, "reason": "", "message": ""}
        return self._steer(job, "resumed", values, (JobState.PAUSED,), now, generation)

    def cancel(self, job: str, *, now: datetime, generation: int | None = None) -> TuningJobRecord:
        """Ends it: waiting trials now, those under way at their next renewal."""
        values = {"state": JobState.CANCELLED.value, "reason": "Cancelled", "message": "by request", "ended_at": now}
        return self._steer(job, "cancelled", values, _OPEN, now, generation)

    def extend(self, job: str, *, trials: int, now: datetime, generation: int | None = None) -> TuningJobRecord:
        """A budget of `trials` in all, more than it had. A job that was done runs again."""
        with self.database.write() as connection:
            before = row_of_job(connection, job, lock=True)
            if not before.budget < trials <= TRIALS_MAX:
                raise InvalidSpec(
                    "extends nothing",
                    field="budget.trials",
                    value=trials,
                    limit=f"{before.budget + 1} to {TRIALS_MAX}",
                    hint="give the new total, not the trials to add",
                )
            _allow(before, "extended", (*_OPEN, JobState.DONE), generation)
            values: dict[str, Any] = {"budget": trials}
            if before.state == JobState.DONE.value:
                values |= {"state": JobState.RUNNING.value, "reason": "", "message": "", "ended_at": None}
            note(connection, _changed(connection, job, values), "extended", {"trials": trials}, now)
            return job_of(row_of_job(connection, job))

    def delete(self, job: str, *, now: datetime, generation: int | None = None) -> None:
        """Gone for everybody. Its rows stay until `Upkeep.purge`; a job under way is cancelled with it."""
        with self.database.write() as connection:
            before = row_of_job(connection, job, lock=True)
            _allow(before, "deleted", tuple(JobState), generation)
            values: dict[str, Any] = {}
            if before.state in _OPEN:
                values = {"state": JobState.CANCELLED.value, "reason": "Deleted", "ended_at": now}
            row = _changed(connection, job, values)
            _cancel_waiting(connection, job, now)
            note(connection, row, "deleted", {}, now)
            connection.execute(update(jobs).where(jobs.c.id == job).values(deleted_at=now))

    def end(self, job: str, state: JobState, *, reason: str, message: str, now: datetime) -> TuningJobRecord | None:
        """What the driver says of a running job: done, failed, or paused because nothing works. None: it no longer
        runs."""
        with self.database.write() as connection:
            ended = None if state is JobState.PAUSED else now
            row = change_job(
                connection,
                job,
                jobs.c.state == JobState.RUNNING.value,
                values={"state": state.value, "reason": reason, "message": message, "ended_at": ended},
            )
            if row is None:
                return None
            note(connection, row, state.value, {"reason": reason, "message": message}, now)
            return job_of(row_of_job(connection, job))

    def decide(self, job: str, decision: Mapping[str, Any], *, now: datetime) -> bool:
        """Keep the decision (best setting, gain and its interval): one document of bounded size. False: no such job."""
        with self.database.write() as connection:
            row = change_job(connection, job, values={"decision": dict(decision)})
            if row is not None:
                note(connection, row, "decided", {}, now)
        return row is not None

    def _steer(
        self,
        job: str,
        kind: str,
        values: Mapping[str, Any],
        allowed: tuple[JobState, ...],
        now: datetime,
        generation: int | None,
    ) -> TuningJobRecord:
        with self.database.write() as connection:
            before = row_of_job(connection, job, lock=True)
            if before.state == values["state"]:
                return job_of(before)
            _allow(before, kind, allowed, generation)
            note(connection, _changed(connection, job, values), kind, {}, now)
            if values["state"] == JobState.CANCELLED.value:
                _cancel_waiting(connection, job, now)
            return job_of(row_of_job(connection, job))


def _allow(row: Row[Any], kind: str, allowed: tuple[JobState, ...], generation: int | None) -> None:
    if generation is not None and row.generation != generation:
        raise Refused(
            "the job has changed since it was read",
            field="generation",
            value=generation,
            limit=str(row.generation),
            hint="read it again and decide anew",
            code="Changed",
        )
    if row.state not in allowed:
        raise Refused(
            f"the job is {row.state} and cannot be {kind}",
            field="state",
            value=row.state,
            limit=", ".join(allowed),
            hint="clone it to run it again",
            code="WrongState",
        )


def _changed(connection: Connection, job: str, values: Mapping[str, Any]) -> Row[Any]:
    """A user's change of a job whose row is held."""
    row = change_job(connection, job, values={"generation": jobs.c.generation + 1, **values})
    assert row is not None
    return row


def _cancel_waiting(connection: Connection, job: str, now: datetime) -> None:
    """Waiting trials of a job whose row is held are cancelled."""
    ended = connection.execute(
        update(trials)
        .where(trials.c.job == job, trials.c.state == TrialState.WAITING.value)
        .values(state=TrialState.CANCELLED.value, ended_at=now, reason="the job was cancelled")
    ).rowcount
    counts = {"waiting": jobs.c.waiting - ended, "cancelled": jobs.c.cancelled + ended}
    connection.execute(update(jobs).where(jobs.c.id == job).values(counts))
