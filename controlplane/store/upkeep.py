"""What keeps a store in order when nobody asks: silent workers given up, waiting trials found, old rows removed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select

from controlplane.model.tuning import JobState, TrialState
from controlplane.store.database import Database
from controlplane.store.rows import trial_id
from controlplane.store.tables import events, jobs, keys, measurements, samples, trials
from controlplane.store.trials import give_up, hold, run_out

_BATCH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long rows stay. Idempotency keys: longer than any client retries."""

    ended_s: float | None = None
    deleted_s: float = 24 * 3600.0
    keys_s: float = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Run by any process, at any time, by several at once."""

    database: Database

    def reap(self, *, now: datetime) -> list[str]:
        """Give up leases that ran out. Trials that wait again."""
        expired = (trials.c.state == TrialState.LEASED.value) & run_out(now)
        with self.database.read() as connection:
            found = connection.execute(
                select(trials.c.job, trials.c.number, trials.c.attempt).where(expired).limit(_BATCH)
            ).all()
        again = []
        for job, number, attempt in found:
            with self.database.write() as connection:
                held = hold(connection, job)
                here = (trials.c.job == job) & (trials.c.number == number) & (trials.c.attempt == attempt)
                # Locked: renewals do not hold the job, and one under way is waited for and counts.
                row = connection.execute(select(trials).where(here, expired).with_for_update()).first()
                if held is None or row is None:
                    continue  # told or renewed meanwhile
                after = give_up(connection, held, row, "its worker fell silent", now)
            if after is TrialState.WAITING:
                again.append(trial_id(job, number))
        return again

    def waiting(self, *, limit: int = _BATCH) -> list[str]:
        """Trials of running jobs that nobody has taken, oldest first."""
        query = (
            select(trials.c.job, trials.c.number)
            .join(jobs, jobs.c.id == trials.c.job)
            .where(trials.c.state == TrialState.WAITING.value, jobs.c.state == JobState.RUNNING.value)
            .order_by(trials.c.asked_at, trials.c.job, trials.c.number)
            .limit(limit)
        )
        with self.database.read() as connection:
            return [trial_id(job, number) for job, number in connection.execute(query)]

    def purge(self, retention: Retention, *, now: datetime) -> int:
        """Remove jobs past their retention with everything of theirs, one transaction each. How many."""
        gone = [jobs.c.deleted_at <= now - timedelta(seconds=retention.deleted_s)]
        if retention.ended_s is not None:
            gone.append(jobs.c.ended_at <= now - timedelta(seconds=retention.ended_s))
        with self.database.read() as connection:
            old = list(connection.execute(select(jobs.c.id).where(or_(*gone)).limit(_BATCH)).scalars())
        for job in old:
            with self.database.write() as connection:
                hold(connection, job)
                if connection.execute(select(jobs.c.id).where(jobs.c.id == job, or_(*gone))).first() is None:
                    continue  # extended meanwhile
                for table in (samples, measurements, events, trials):
                    connection.execute(delete(table).where(table.c.job == job))
                connection.execute(delete(jobs).where(jobs.c.id == job))
        with self.database.write() as connection:
            connection.execute(delete(keys).where(keys.c.at <= now - timedelta(seconds=retention.keys_s)))
        return len(old)
