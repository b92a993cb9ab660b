"""The tables. What is never filtered or sorted by stands as JSON.

A job's row is the lock of everything in the job: each change begins with an update of it, takes the number of its event
from it and keeps its counts. So events are numbered in the order they were committed and counts are never off by one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import JSON, TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """A moment as microseconds since 1970 UTC: SQLite has no type for one, and comparisons must mean the same in both."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


def _storable(value: str | None) -> str | None:
    """PostgreSQL takes no NUL, neither database half of a surrogate pair; the last lines of a log may hold both."""
    return None if value is None else value.replace("\0", "\ufffd").encode(errors="replace").decode()


class Words(TypeDecorator[str]):
    """Words about something, out of logs and other people's answers: whatever they hold, they can be kept."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return _storable(value)


class LongWords(TypeDecorator[str]):
    """As `Words`, of any length."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return _storable(value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
    }
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("tenant", String(253), nullable=False),
    Column("name", String(253), nullable=False),
    Column("spec", JSON, nullable=False),
    # The oldest version of the trial protocol that may work on it (controlplane.store.trials.PROTOCOL).
    Column("protocol", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(63), nullable=False),
    Column("message", LongWords, nullable=False),
    Column("budget", Integer, nullable=False),
    # Grows with what a user changes (If-Match) / with every event (Last-Event-ID).
    Column("generation", Integer, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("asked", Integer, nullable=False),
    Column("waiting", Integer, nullable=False),
    Column("leased", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("infeasible", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("cancelled", Integer, nullable=False),
    Column("decision", JSON(none_as_null=True)),
    Column("cloned_from", String(63)),
    Column("created_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("deleted_at", Moment),
)
Index("ix_jobs_tenant_created_at", jobs.c.tenant, jobs.c.created_at, jobs.c.id)
Index("ix_jobs_state", jobs.c.state)
# A deleted job's name is free again.
_KEPT = text("deleted_at IS NULL")
Index("ux_jobs_name", jobs.c.tenant, jobs.c.name, unique=True, sqlite_where=_KEPT, postgresql_where=_KEPT)

trials = Table(
    "trials",
    metadata,
    Column("job", String(63), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("purpose", String(16), nullable=False),
    Column("setting", JSON, nullable=False),
    # Hash of the resolved configuration: two settings that mean the same engine have the same one.
    Column("canonical", String(64), nullable=False),
    Column("why", Words(512), nullable=False),
    Column("seed", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("lost", Integer, nullable=False),
    Column("owner", String(253)),
    Column("expires_at", Moment),
    Column("asked_at", Moment, nullable=False),
    Column("leased_at", Moment),
    Column("ended_at", Moment),
    Column("verdict", String(16)),
    Column("reason", LongWords, nullable=False),
    Column("objectives", JSON(none_as_null=True)),
    Column("violation", JSON(none_as_null=True)),
    # The first objective once more, to sort by.
    Column("value", Float),
    # Of a run's requests that they rest on, and what a short run was held against.
    Column("share", Float),
    Column("bar", JSON(none_as_null=True)),
    ForeignKeyConstraint(["job"], ["jobs.id"], ondelete="CASCADE"),
)
Index("ix_trials_job_canonical", trials.c.job, trials.c.canonical)
Index("ix_trials_job_value", trials.c.job, trials.c.value)
# Unfinished trials are few beside finished ones: upkeep looks at these alone.
_OPEN = text("state IN ('waiting', 'leased')")
Index("ix_trials_open", trials.c.job, trials.c.number, sqlite_where=_OPEN, postgresql_where=_OPEN)

measurements = Table(
    "measurements",
    metadata,
    Column("job", String(63), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("verdict", String(16), nullable=False),
    Column("measurement", JSON, nullable=False),
    Column("at", Moment, nullable=False),
    ForeignKeyConstraint(["job", "number"], ["trials.job", "trials.number"], ondelete="CASCADE"),
)

samples = Table(
    "samples",
    metadata,
    Column("job", String(63), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("parquet", LargeBinary, nullable=False),
    ForeignKeyConstraint(["job", "number"], ["trials.job", "trials.number"], ondelete="CASCADE"),
)

events = Table(
    "events",
    metadata,
    Column("job", String(63), primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("kind", String(63), nullable=False),
    Column("data", JSON, nullable=False),
    ForeignKeyConstraint(["job"], ["jobs.id"], ondelete="CASCADE"),
)

keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", String(253), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("job", String(63), nullable=False),
    Column("at", Moment, nullable=False),
)
Index("ix_idempotency_keys_at", keys.c.at)

# What a configuration in use answered on some hardware: no job's own, later ones compare with it as well.
references = Table(
    "reference_answers",
    metadata,
    Column("answering", String(64), primary_key=True),
    Column("hardware", String(256), primary_key=True),
    Column("answers", Text, nullable=False),
    Column("at", Moment, nullable=False),
)
