"""How every change of a job is made: lock its row, move its counts, write down what happened. All in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from controlplane.model.errors import UnknownName
from controlplane.model.tuning import TrialState
from controlplane.store.tables import events, jobs


def row_of_job(connection: Connection, job: str, *, lock: bool = False) -> Row[Any]:
    """The job's row, held until the transaction ends if `lock`. Raises UnknownName, for deleted ones as well."""
    query = select(jobs).where(jobs.c.id == job, jobs.c.deleted_at.is_(None))
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise UnknownName(f"no tuning job {job!r}", field="job", value=job)
    return row


def change_job(
    connection: Connection,
    job: str,
    *where: ColumnElement[bool],
    values: Mapping[str, Any] | None = None,
) -> Row[Any] | None:
    """Change a job that is not deleted and meets `where`, and hold its row until the transaction ends. Its id and the
    number of the event to write; None where there is no such job."""
    return connection.execute(
        update(jobs)
        .where(jobs.c.id == job, jobs.c.deleted_at.is_(None), *where)
        .values(events=jobs.c.events + 1, **(values or {}))
        .returning(jobs.c.id, jobs.c.events)
    ).first()


def moved(before: TrialState | None, after: TrialState, n: int = 1) -> dict[str, Any]:
    """Values for `change_job`: `n` trials go from one state to another (None: they are new)."""
    out: dict[str, Any] = {after.value: jobs.c[after.value] + n}
    if before is None:
        out["asked"] = jobs.c.asked + n
    elif before is after:
        return {}
    else:
        out[before.value] = jobs.c[before.value] - n
    return out


def note(connection: Connection, job: Row[Any], kind: str, data: Mapping[str, Any], now: datetime) -> None:
    """Write down what happened, under the number that `change_job` took."""
    connection.execute(insert(events).values(job=job.id, id=job.events, at=now, kind=kind, data=dict(data)))
