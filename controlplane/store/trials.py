"""Trials: leased, renewed, told. Fulfils `controlplane.model.ports.TrialStore`.

Each change is a conditional update on (trial, attempt) under the lock of the job's row, so a lease that has passed to
somebody else can change nothing, however late its message, its renewal or its result comes. Clocks only decide when a
silent owner is given up; they never decide who may write.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, not_, or_, select, update

from controlplane.model.errors import InvalidSpec, UnknownName
from controlplane.model.tuning import (
    JobState,
    LeasedTrial,
    Limit,
    Measurement,
    Objective,
    Outcome,
    Renewal,
    TrialState,
    Verdict,
)
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import objective_values, violations
from controlplane.model.tuning_stored import stored_spec
from controlplane.store.change import change_job, moved, note
from controlplane.store.database import Database
from controlplane.store.rows import split_trial_id
from controlplane.store.tables import jobs, measurements, samples, trials

# What leases and results mean. A worker leaves trials of a later protocol to workers that know it.
PROTOCOL = 1
# No lease is longer. One that seems to have more than twice this left was written by a clock that has jumped back since.
LEASE_MAX_S = 3600.0
# So many attempts beyond the job's own may end because their worker was told to: a node that always evicts is no reason.
_INTERRUPTED_MAX = 16
# So many may have waited in vain: a month at the default time limit. With one of milliseconds it ends all the same.
_WAITED_MAX = 3000
# Why a running job makes no progress: its trials find no hardware.
WAITS = "TrialsWait"
_OWNER_MAX = 253
_REASON_MAX = 4096


@dataclass(frozen=True, slots=True)
class Trials:
    """`TrialStore` on a database."""

    database: Database

    def lease(self, trial: str, *, owner: str, seconds: float, now: datetime) -> LeasedTrial | None:
        """Take a waiting trial, or one whose lease ran out. None: nothing to do (taken, final, paused, cancelled, of a
        later protocol, used up, or unknown because its job was deleted)."""
        if not 0 < seconds <= LEASE_MAX_S:
            raise InvalidSpec(
                "is no length of a lease", field="seconds", value=seconds, limit=f"0 to {LEASE_MAX_S:g} s"
            )
        job, number = split_trial_id(trial)
        here = _here(job, number)
        with self.database.write(outlives_power=False) as connection:
            held = hold(connection, job)
            row = connection.execute(select(trials).where(here, _takeable(now)).with_for_update()).first()
            if held is None or row is None or held.state != JobState.RUNNING.value or held.protocol > PROTOCOL:
                return None
            if row.state == TrialState.LEASED.value:
                after = give_up(connection, held, row, "its worker fell silent", now)
                if after is not TrialState.WAITING:
                    return None
            changed = change_job(connection, job, values=moved(TrialState.WAITING, TrialState.LEASED))
            if changed is None:
                return None
            attempt = row.attempt + 1
            connection.execute(
                update(trials)
                .where(here, trials.c.attempt == row.attempt)
                .values(
                    state=TrialState.LEASED.value,
                    attempt=attempt,
                    owner=owner[:_OWNER_MAX],
                    leased_at=now,
                    expires_at=now + timedelta(seconds=seconds),
                )
            )
            note(connection, changed, "leased", {"trial": number, "attempt": attempt, "owner": owner[:_OWNER_MAX]}, now)
        return LeasedTrial(
            id=trial,
            job=job,
            tenant=held.tenant,
            number=number,
            attempt=attempt,
            setting=row.setting,
            seed=row.seed,
            purpose=row.purpose,
            bar=row.bar,
        )

    def renew(self, leased: LeasedTrial, *, seconds: float, now: datetime) -> Renewal:
        """Keep it. A renewal that comes late still counts if nobody has taken the trial meanwhile."""
        with self.database.write(outlives_power=False) as connection:
            kept = connection.execute(
                update(trials)
                .where(*_held(leased))
                .values(expires_at=now + timedelta(seconds=min(seconds, LEASE_MAX_S)))
            )
            job = connection.execute(select(jobs.c.state, jobs.c.deleted_at).where(jobs.c.id == leased.job)).first()
        if kept.rowcount == 0 or job is None:
            return Renewal(ours=False)
        return Renewal(ours=True, cancelled=job.state == JobState.CANCELLED.value or job.deleted_at is not None)

    def tell(self, leased: LeasedTrial, outcome: Outcome, *, now: datetime) -> bool:
        """End the attempt. An ok outcome without one of the objectives or limits is an invalid one."""
        with self.database.write() as connection:
            held = hold(connection, leased.job)
            row = connection.execute(select(trials).where(*_held(leased))).first()
            if held is None or row is None:
                return False
            end_attempt(connection, held, row, outcome, now)
        return True

    def waits(self, leased: LeasedTrial, why: str, *, now: datetime) -> None:
        """Say at trial and job why a leased trial has not begun (empty: it has). Of a lease that has passed on: nothing."""
        with self.database.write(outlives_power=False) as connection:
            if hold(connection, leased.job) is None:  # jobs before trials, as everywhere
                return
            ours = connection.execute(update(trials).where(*_held(leased)).values(reason=why[:_REASON_MAX]))
            if ours.rowcount == 0:
                return
            message = f"{_waits_of(leased.number)}{why}"[:_REASON_MAX] if why else ""
            changed = change_job(
                connection, leased.job, jobs.c.state == JobState.RUNNING.value, jobs.c.reason.in_(["", WAITS] if why else [WAITS]),
                values={"reason": WAITS if why else "", "message": message},
            )  # fmt: skip
            if changed is not None:
                note(
                    connection,
                    changed,
                    "waits" if why else "begins",
                    {"trial": leased.number, "reason": why[:512]},
                    now,
                )

    def leases(self, asked: Iterable[tuple[str, int]], *, now: datetime) -> set[tuple[str, int, int]]:
        """Of these trials (job, number), those that somebody holds now, with the attempt."""
        by_job: dict[str, set[int]] = {}
        for job, number in asked:
            by_job.setdefault(job, set()).add(number)
        held: set[tuple[str, int, int]] = set()
        with self.database.read() as connection:
            for job, numbers in by_job.items():
                query = select(trials.c.number, trials.c.attempt).where(
                    trials.c.job == job, trials.c.number.in_(numbers),
                    trials.c.state == TrialState.LEASED.value, not_(run_out(now)),
                )  # fmt: skip
                held |= {(job, row.number, row.attempt) for row in connection.execute(query)}
        return held

    def spec(self, job: str) -> TuningSpec:
        """What the job asks for. Raises UnknownName."""
        with self.database.read() as connection:
            row = connection.execute(select(jobs.c.spec).where(jobs.c.id == job)).first()
        if row is None:
            raise UnknownName(f"no tuning job {job!r}", field="job", value=job)
        return stored_spec(row.spec)


def hold(connection: Connection, job: str) -> Row[Any] | None:
    """The job with its row held until the transaction ends: nobody else changes it or its trials. Deleted ones too."""
    state = (jobs.c.state, jobs.c.reason, jobs.c.message, jobs.c.protocol, jobs.c.created_at, jobs.c.deleted_at)
    columns: list[ColumnElement[Any]] = [jobs.c.id, jobs.c.tenant, jobs.c.spec, *state]
    return connection.execute(select(*columns).where(jobs.c.id == job).with_for_update()).first()


def end_attempt(connection: Connection, job: Row[Any], row: Row[Any], outcome: Outcome, now: datetime) -> TrialState:
    """End the attempt of a leased trial of a job that is held. The state that follows."""
    verdict, reason = outcome.verdict, outcome.reason
    values: list[float] | None = None
    broken: list[float] | None = None
    share: float | None = None
    if verdict is Verdict.OK and outcome.measurement is not None:
        judged = _judged(outcome.measurement, job.spec)
        if isinstance(judged, str):
            verdict, reason = Verdict.INVALID, f"the measurement reports no {judged}"
        else:
            values, broken = judged
            share = outcome.measurement.share
    in_vain = row.attempt - row.lost
    waits = outcome.waited and in_vain <= _WAITED_MAX and not _hours_over(job, now)
    excused = waits or (outcome.interrupted and in_vain <= _INTERRUPTED_MAX)
    lost = row.lost + (verdict in {Verdict.INFRASTRUCTURE, Verdict.INVALID} and not excused)
    over = job.state == JobState.CANCELLED.value or job.deleted_at is not None
    after = _after(verdict, over=over, used_up=lost >= _attempts(job.spec))
    values_of_job = moved(TrialState.LEASED, after)
    waits = waits and after is TrialState.WAITING
    if job.reason == WAITS and job.message.startswith(_waits_of(row.number)) and not waits:
        values_of_job |= {"reason": "", "message": ""}  # whatever it waited for, this attempt waits no more
    changed = change_job(connection, row.job, values=values_of_job)
    final = after is not TrialState.WAITING
    connection.execute(
        update(trials)
        .where(_here(row.job, row.number), trials.c.attempt == row.attempt)
        .values(
            state=after.value,
            lost=lost,
            owner=None if not final else row.owner,
            expires_at=None,
            ended_at=now if final else None,
            verdict=verdict.value,
            reason=reason[:_REASON_MAX],
            objectives=values,
            violation=broken,
            value=values[0] if values else None,
            share=share,
        )
    )
    at = {"job": row.job, "number": row.number, "attempt": row.attempt}
    if outcome.measurement is not None:
        body = outcome.measurement.model_dump(mode="json", by_alias=True)
        connection.execute(insert(measurements).values(**at, verdict=verdict.value, measurement=body, at=now))
    if outcome.samples:
        connection.execute(insert(samples).values(**at, parquet=outcome.samples))
    if changed is not None:  # a deleted job has no events
        data = {"trial": row.number, "attempt": row.attempt, "verdict": verdict.value, "state": after.value}
        if reason:
            data["reason"] = reason[:512]
        if values:
            data["objectives"] = values
        if share is not None and share < 1:
            data["share"] = share
        note(connection, changed, "told", data, now)
    return after


def _hours_over(job: Row[Any], now: datetime) -> bool:
    """From then on waiting counts as an attempt again, so that the job ends."""
    hours = job.spec["budget"].get("hours")
    return hours is not None and bool(now - job.created_at >= timedelta(hours=hours))


def _waits_of(number: int) -> str:
    """How a job's message begins while this trial waits."""
    return f"trial {number}: "


def give_up(connection: Connection, job: Row[Any], row: Row[Any], why: str, now: datetime) -> TrialState:
    """End the attempt of a leased trial that says nothing any more, of a job that is held."""
    return end_attempt(connection, job, row, Outcome(verdict=Verdict.INFRASTRUCTURE, reason=why), now)


def run_out(now: datetime) -> ColumnElement[bool]:
    """Leases whose owner is given up."""
    return or_(trials.c.expires_at <= now, trials.c.expires_at > now + timedelta(seconds=2 * LEASE_MAX_S))


def _takeable(now: datetime) -> ColumnElement[bool]:
    waiting = trials.c.state == TrialState.WAITING.value
    return or_(waiting, (trials.c.state == TrialState.LEASED.value) & run_out(now))


def _here(job: str, number: int) -> ColumnElement[bool]:
    return (trials.c.job == job) & (trials.c.number == number)


def _held(leased: LeasedTrial) -> tuple[ColumnElement[bool], ...]:
    return (
        _here(leased.job, leased.number),
        trials.c.attempt == leased.attempt,
        trials.c.state == TrialState.LEASED.value,
    )


def _after(verdict: Verdict, *, over: bool, used_up: bool) -> TrialState:
    if verdict is Verdict.OK:
        return TrialState.DONE
    if verdict is Verdict.INFEASIBLE:
        return TrialState.INFEASIBLE
    if over:
        return TrialState.CANCELLED
    return TrialState.FAILED if used_up else TrialState.WAITING


def _attempts(spec: dict[str, Any]) -> int:
    return int(spec["measuring"]["attempts"])


def _judged(measurement: Measurement, spec: dict[str, Any]) -> tuple[list[float], list[float]] | str:
    """Values and violations, or the metric that is missing."""
    values = objective_values(measurement, [Objective.model_validate(one) for one in spec["objectives"]])
    if isinstance(values, str):
        return values
    broken = violations(measurement, [Limit.model_validate(one) for one in spec["limits"]])
    return broken if isinstance(broken, str) else (values, broken)
