"""A study as its driver sees it: which jobs run, what became of their trials, and the next asks appended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import func, insert, select

from controlplane.model.errors import UnknownName
from controlplane.model.tuning import JobState, Measurement, TrialPurpose, TrialState, Verdict
from controlplane.model.tuning_records import (
    Ask,
    MeasuredAttempt,
    MeasuredTrial,
    TrialRecord,
    TuningJobRecord,
    TuningProgress,
    figures_of,
)
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

    def measured_from(self, job: str, number: int) -> list[TrialRecord]:
        """As `trials_from`, with the figures of those that were measured."""
        found = self.trials_from(job, number)
        # One that is not over has none; a driver at work reads a few, one that begins again reads all.
        ended = [trial for trial in found if trial.state is TrialState.DONE]
        if not ended:
            return found
        columns = (measurements.c.number, measurements.c.attempt, measurements.c.measurement)
        query = select(*columns).where(
            measurements.c.job == job,
            measurements.c.number >= ended[0].number,
            measurements.c.number <= ended[-1].number,
            measurements.c.verdict == Verdict.OK.value,
        )
        with self.database.read() as connection:
            known = {(row.number, row.attempt): row.measurement for row in connection.execute(query)}
        return [
            trial
            if (measurement := known.get((trial.number, trial.attempt))) is None
            else MeasuredTrial.model_construct(
                **dict(trial), figures=figures_of(Measurement.model_validate(measurement))
            )
            for trial in found
        ]

    def trial(self, job: str, number: int) -> TrialRecord:
        """Raises UnknownName."""
        with self.database.read() as connection:
            row = connection.execute(select(trials).where(trials.c.job == job, trials.c.number == number)).first()
            if row is not None:
                return trial_of(row)
            last = connection.execute(select(func.max(trials.c.number)).where(trials.c.job == job)).scalar()
        raise UnknownName(
            f"the job has no trial {number}",
            field="trial",
            value=number,
            limit="none yet" if last is None else f"0 to {last}",
        )

    def with_progress(self, job: TuningJobRecord) -> TuningJobRecord:
        """The record with its trials counted by purpose."""
        query = (
            select(trials.c.purpose, trials.c.state, func.count())
            .where(trials.c.job == job.id)
            .group_by(trials.c.purpose, trials.c.state)
        )
        found = dict.fromkeys(TuningProgress.model_fields, 0)
        with self.database.read() as connection:
            for purpose, state, count in connection.execute(query):
                kind = "search" if purpose == TrialPurpose.SEARCH.value else "confirm"
                found[f"{kind}_asked"] += count
                if state not in {TrialState.WAITING.value, TrialState.LEASED.value}:
                    found[f"{kind}_ended"] += count
        return job.model_copy(update={"progress": TuningProgress(**found)})

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
