"""A database opened: SQLite in WAL mode or PostgreSQL, reads and writes as short transactions, errors in plain words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as NoneFree

from controlplane.model.errors import InvalidSpec, Refused, TrimtabError
from controlplane.store.clock import ServerClock, machine_time

_FIELD = "TRIMTAB_DATABASE_URL"
# Another process of a laptop holds the one write lock for milliseconds; a minute means that it is stuck.
_BUSY_TIMEOUT_MS = 60_000
_CONNECT_TIMEOUT_S = 10
# A server whose node was lost sends no reset: without these, TCP finds out after 15 minutes (tcp_retries2), or after two
# hours where nothing is left to send, and a lease would be believed to be renewed. Names of libpq, seconds but for the last.
_FOUND_LOST = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
# A worker needs one connection for its trial and one for its renewals.
_POOL = 8
# A connection that lay idle for this long may be dead: it is tried before it is used.
_IDLE_S = 5.0

# SQLSTATE and SQLite's words -> (code, what it means, the way out). First match counts.
_CAUSES: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (
        ("25006", "readonly database", "read-only transaction"),
        "StoreReadOnly",
        "the database is read-only",
        "point TRIMTAB_DATABASE_URL at the primary, or make the file and its folder writable",
    ),
    (
        ("53100", "database or disk is full", "No space left"),
        "StoreFull",
        "the database's disk is full",
        "free space or enlarge the volume; nothing that was told is lost",
    ),
    (
        ("database is locked",),
        "StoreBusy",
        f"another process held the database for {_BUSY_TIMEOUT_MS // 1000} s",
        "look for a stuck process that has the file open",
    ),
    (
        ("no such table", "42P01"),
        "StoreNotMigrated",
        "the database has no tables yet",
        "start `trimtab worker driver`: it makes them",
    ),
)


class Database:
    """Thread-safe. `read` and `write` hand out a connection inside a transaction; keep both short."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.now: Callable[[], datetime] = machine_time if self.embedded else ServerClock(self._server_time)
        """The time by which leases end."""

    @property
    def embedded(self) -> bool:
        """SQLite: one file, one writer at a time."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def write(self, *, outlives_power: bool = True) -> Iterator[Connection]:
        """Committed at the end, rolled back on an exception. On SQLite it holds the write lock from its first line, so
        that no two writers find out at commit that they disagree.

        `outlives_power` False is for what a laptop may forget if its power fails, because everybody who knew of it is
        gone as well (leases) or works it out again (asks); the next commit that outlives it takes it along. Nothing is
        ever lost to a killed process."""
        with _told(), self.engine.connect() as connection:
            connection.info["immediate"] = outlives_power
            try:
                with connection.begin():
                    yield connection
            finally:
                connection.info["immediate"] = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view."""
        with _told(), self.engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Let every connection go."""
        self.engine.dispose()

    def _server_time(self) -> datetime:
        with self.read() as connection:
            found: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return found.astimezone(UTC)


def open_database(url: str) -> Database:
    """`sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/DATABASE`. Nothing is connected yet. Raises InvalidSpec."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        # The URL may hold a password: it is not repeated.
        raise InvalidSpec(
            "is no database URL", field=_FIELD, limit="sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from error
    if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
        return Database(_sqlite(parsed))
    if parsed.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return Database(_postgresql(parsed.set(drivername="postgresql+psycopg")))
    raise InvalidSpec(
        f"{parsed.drivername} is not supported", field=_FIELD, limit="sqlite or postgresql", value=parsed.drivername
    )


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidSpec("names no file", field=_FIELD, limit="sqlite:///FILE", hint="trials must outlive the process")
    if not url.database.startswith("file:"):
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        json_serializer=_compact,
        hide_parameters=True,  # errors are logged: a command may hold what is nobody's business, samples are megabytes
        connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(raw: Any, record: Any) -> None:
        raw.isolation_level = None  # transactions begin where `begin` below says, not where the driver guesses
        cursor = raw.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        outlives_power = connection.info.get("immediate")
        if outlives_power is None:
            connection.exec_driver_sql("BEGIN")
            return
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if outlives_power else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql(url: URL) -> Engine:
    args = {"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": "trimtab", **_FOUND_LOST}
    args = {name: value for name, value in args.items() if name not in url.query}  # what the URL says stays
    try:
        engine = create_engine(url, json_serializer=_compact, hide_parameters=True, pool_size=_POOL, connect_args=args)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise InvalidSpec(
            "PostgreSQL needs psycopg", field=_FIELD, hint="pip install 'trimtab[worker]'", code="MissingPackage"
        ) from error

    @event.listens_for(engine, "checkin")
    def used(raw: Any, record: Any) -> None:
        record.info["used_s"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def check(raw: Any, record: Any, proxy: Any) -> None:
        if time.monotonic() - record.info.get("used_s", time.monotonic()) < _IDLE_S:
            return
        try:
            engine.dialect.do_ping(raw)
        except Exception as error:
            raise DisconnectionError() from error  # the pool opens another one

    return engine


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


@contextmanager
def _told() -> Iterator[None]:
    """Errors of the database that a person can act on, as Refused. Others pass as they are."""
    try:
        yield
    except DBAPIError as error:
        told = _cause(error)
        if told is None:
            raise
        raise told from error
    except NoneFree as error:  # all are in use, for as long as the pool waits
        raise Refused(
            "no connection to the database was free in time", field=_FIELD, hint="it is tried again", code="StoreBusy"
        ) from error


def _cause(error: DBAPIError) -> TrimtabError | None:
    words = f"{getattr(error.orig, 'sqlstate', None) or ''} {error.orig}"
    for patterns, code, message, hint in _CAUSES:
        if any(pattern in words for pattern in patterns):
            return Refused(message, field=_FIELD, hint=hint, code=code)
    if isinstance(error, OperationalError) or error.connection_invalidated:
        return Refused(
            f"the database does not answer: {str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else error.orig!r}",
            field=_FIELD,
            hint="it is tried again; check that it runs and that its address is right",
            code="StoreUnreachable",
        )
    return None
