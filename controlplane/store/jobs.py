"""Tuning jobs: created once per idempotency key, cloned, read, listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, insert, or_, select
from sqlalchemy.exc import IntegrityError

from controlplane.model.errors import Refused
from controlplane.model.tuning import JobState, TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import TuningJobRecord
from controlplane.store.change import note, row_of_job
from controlplane.store.database import Database
from controlplane.store.rows import job_of
from controlplane.store.tables import jobs, keys
from controlplane.store.trials import PROTOCOL

PAGE_MAX = 500


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """`digest` is that of the request's body: the same key with another body is a mistake."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Jobs:
    """Deleted jobs are unknown here, and their names are free."""

    database: Database

    def create(
        self,
        job: str,
        *,
        tenant: str,
        name: str,
        spec: TuningSpec,
        now: datetime,
        idempotency: IdempotencyKey | None = None,
        cloned_from: str | None = None,
    ) -> tuple[TuningJobRecord, bool]:
        """The job, and whether this call made it: a repeated key gets what the first call made. Raises Refused for a
        name in use, and for a key that was used with another body."""
        try:
            with self.database.write() as connection:
                if idempotency is not None:
                    made = self._made(connection, tenant, idempotency)
                    if made is not None:
                        return job_of(made), False
                    connection.execute(
                        insert(keys).values(
                            tenant=tenant, key=idempotency.key, digest=idempotency.digest, job=job, at=now
                        )
                    )
                row = connection.execute(
                    insert(jobs).values(**_fresh(job, tenant, name, spec, cloned_from, now)).returning(jobs)
                ).one()
                note(connection, row, "created", {"name": name}, now)
                return job_of(row), True
        except IntegrityError as error:
            if idempotency is not None:
                # Another process used the key between our look and our insert: it answers for both.
                with self.database.read() as connection:
                    made = self._made(connection, tenant, idempotency)
                if made is not None:
                    return job_of(made), False
            raise Refused(
                "a tuning job of this name exists",
                field="name",
                value=name,
                hint="choose another name, or delete that job",
                code="AlreadyExists",
            ) from error

    def get(self, job: str) -> TuningJobRecord:
        """Raises UnknownName."""
        with self.database.read() as connection:
            return job_of(row_of_job(connection, job))

    def named(self, tenant: str, name: str) -> TuningJobRecord | None:
        """The job of this name, unless deleted."""
        where = (jobs.c.tenant == tenant) & (jobs.c.name == name) & jobs.c.deleted_at.is_(None)
        with self.database.read() as connection:
            row = connection.execute(select(jobs).where(where)).first()
        return None if row is None else job_of(row)

    def list(
        self,
        *,
        tenants: Sequence[str] | None = None,
        name: str | None = None,
        states: Sequence[JobState] = (),
        limit: int = 50,
        after: tuple[datetime, str] | None = None,
    ) -> list[TuningJobRecord]:
        """Newest first. `after`: creation time and id of the last one seen. `tenants` None: everybody's."""
        where: list[ColumnElement[bool]] = [jobs.c.deleted_at.is_(None)]
        if tenants is not None:
            where.append(jobs.c.tenant.in_(tenants))
        if name is not None:
            where.append(jobs.c.name == name)
        if states:
            where.append(jobs.c.state.in_([state.value for state in states]))
        if after is not None:
            at, last = after
            where.append(or_(jobs.c.created_at < at, and_(jobs.c.created_at == at, jobs.c.id < last)))
        query = select(jobs).where(*where).order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
        with self.database.read() as connection:
            return [job_of(row) for row in connection.execute(query.limit(min(limit, PAGE_MAX)))]

    def clone(self, job: str, copy: str, *, name: str, now: datetime) -> TuningJobRecord:
        """A new job that asks for the same, from its beginning."""
        original = self.get(job)
        made, _ = self.create(
            copy, tenant=original.tenant, name=name, spec=original.spec, now=now, cloned_from=original.id
        )
        return made

    def _made(self, connection: Connection, tenant: str, idempotency: IdempotencyKey) -> Row[Any] | None:
        """What an earlier call with this key made."""
        where = (keys.c.tenant == tenant) & (keys.c.key == idempotency.key)
        seen = connection.execute(select(keys).where(where)).first()
        if seen is None:
            return None
        if seen.digest != idempotency.digest:
            raise Refused(
                "this key was used with another body",
                field="Idempotency-Key",
                value=idempotency.key,
                hint="a new request has a new key",
                code="IdempotencyMismatch",
            )
        row = connection.execute(select(jobs).where(jobs.c.id == seen.job)).first()
        if row is None or row.deleted_at is not None:
            raise Refused(
                "the job that was made with this key is deleted",
                field="Idempotency-Key",
                value=idempotency.key,
                hint="a new request has a new key",
                code="IdempotencyGone",
            )
        return row


def _fresh(
    job: str, tenant: str, name: str, spec: TuningSpec, cloned_from: str | None, now: datetime
) -> dict[str, Any]:
    counts = dict.fromkeys(("asked", *(state.value for state in TrialState)), 0)
    return counts | {
        "id": job,
        "tenant": tenant,
        "name": name,
        "spec": spec.model_dump(mode="json", by_alias=True),
        "protocol": PROTOCOL,
        "state": JobState.RUNNING.value,
        "reason": "",
        "message": "",
        "budget": spec.budget.trials,
        "generation": 1,
        "events": 1,
        "cloned_from": cloned_from,
        "created_at": now,
    }
