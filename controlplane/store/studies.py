"""A study as its driver sees it: which jobs run, what became of their trials, and the next asks appended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import insert, select

from controlplane.model.tuning import JobState, TrialState
from controlplane.model.tuning_records import Ask, MeasuredAttempt, TrialRecord
from controlplane.store.change import change_job, moved, note
from controlplane.store.database import Database
from controlplane.store.rows import measured_of, trial_of
from controlplane.store.tables import jobs, measurements, samples, trials

PAGE_MAX = 500
_CHUNK = 2000


@dataclass(frozen=True, slots=True)
class StudyHead:
    """What a driver's step needs to know of a job, and little enough to read each time."""

    state: JobState
    budget: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Studies:
    """Reads never lock; `append` is conditional on the number that comes next."""

    database: Database

    def running(self) -> list[str]:
        """Jobs that may have something to ask or to end."""
        where = (jobs.c.state == JobState.RUNNING.value) & jobs.c.deleted_at.is_(None)
        with self.database.read() as connection:
            return list(connection.execute(select(jobs.c.id).where(where).order_by(jobs.c.id)).scalars())

    def head(self, job: str) -> StudyHead | None:
        """Where a job stands; None if it is unknown or deleted."""
        columns = (jobs.c.state, jobs.c.budget, jobs.c.created_at)
        with self.database.read() as connection:
            row = connection.execute(select(*columns).where(jobs.c.id == job, jobs.c.deleted_at.is_(None))).first()
        return None if row is None else StudyHead(JobState(row.state), row.budget, row.created_at)

    def trials_from(self, job: str, number: int) -> list[TrialRecord]:
        """Every trial from `number` on, in order."""
        out: list[TrialRecord] = []
        while True:
            query = (
                select(trials)
                .where(trials.c.job == job, trials.c.number >= number + len(out))
                .order_by(trials.c.number)
                .limit(_CHUNK)
            )
            with self.database.read() as connection:
                page = [trial_of(row) for row in connection.execute(query)]
            out += page
            if len(page) < _CHUNK:
                return out

    def append(self, job: str, asks: Sequence[Ask], *, now: datetime) -> bool:
        """Add trials. False: the job does not run, or another driver has added these numbers already."""
        with self.database.write(outlives_power=False) as connection:
            for ask in asks:
                changed = change_job(
                    connection,
                    job,
                    jobs.c.state == JobState.RUNNING.value,
                    jobs.c.asked == ask.number,
                    values=moved(None, TrialState.WAITING),
                )
                if changed is None:
                    return False  # only the first can fail: it holds the job's row for the others
                connection.execute(
                    insert(trials).values(
                        **ask.model_dump(mode="json"),
                        job=job,
                        state=TrialState.WAITING.value,
                        attempt=0,
                        lost=0,
                        asked_at=now,
                        reason="",
                    )
                )
                note(connection, changed, "asked", {"trial": ask.number, "why": ask.why}, now)
        return True

    def page(
        self,
        job: str,
        *,
        states: Sequence[TrialState] = (),
        order: Literal["number", "value", "-value"] = "number",
        limit: int = 50,
        offset: int = 0,
    ) -> list[TrialRecord]:
        """Trials filtered and sorted. By value: unmeasured ones are left out."""
        query = select(trials).where(trials.c.job == job)
        if states:
            query = query.where(trials.c.state.in_([state.value for state in states]))
        if order == "number":
            query = query.order_by(trials.c.number)
        else:
            value = trials.c.value
            query = query.where(value.is_not(None))
            query = query.order_by(value.desc() if order == "-value" else value.asc(), trials.c.number)
        with self.database.read() as connection:
            rows = connection.execute(query.limit(min(limit, PAGE_MAX)).offset(offset))
            return [trial_of(row) for row in rows]

    def measured(self, job: str, *, number: int | None = None, canonical: str | None = None) -> list[MeasuredAttempt]:
        """Measurements of a trial, of every trial that resolves to the same configuration, or of the whole job."""
        query = select(measurements).where(measurements.c.job == job)
        if number is not None:
            query = query.where(measurements.c.number == number)
        if canonical is not None:
            same = select(trials.c.number).where(trials.c.job == job, trials.c.canonical == canonical)
            query = query.where(measurements.c.number.in_(same))
        query = query.order_by(measurements.c.number, measurements.c.attempt)
        with self.database.read() as connection:
            return [measured_of(row) for row in connection.execute(query)]

    def samples(self, job: str, number: int, attempt: int) -> bytes | None:
        """Raw samples of an attempt, as its runner packed them."""
        where = (samples.c.job == job) & (samples.c.number == number) & (samples.c.attempt == attempt)
        with self.database.read() as connection:
            return connection.execute(select(samples.c.parquet).where(where)).scalar()
