"""What goes wrong with a database, made to happen to a real one and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, event, text

from controlplane.store.database import Database
from controlplane.store.tables import jobs, trials

_PAGES_MAX = 1_073_741_823  # SQLite's own default
_TRIGGERED = (jobs.name, trials.name)


@contextmanager
def read_only(database: Database) -> Iterator[None]:
    """Every write is refused, as on a standby or a disk that was mounted read-only."""
    if database.embedded:
        with _begun_with(database, "PRAGMA query_only=ON", "PRAGMA query_only=OFF"):
            yield
        return
    with _begun_with(database, "SET TRANSACTION READ ONLY", "SET TRANSACTION READ WRITE"):
        yield


@contextmanager
def full(database: Database) -> Iterator[None]:
    """The disk has no room left. SQLite's file may not grow, so that small writes into it still succeed; PostgreSQL's
    tables of jobs and trials say what a server with a full disk says."""
    if database.embedded:
        with database.read() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        with _begun_with(database, f"PRAGMA max_page_count={pages}", f"PRAGMA max_page_count={_PAGES_MAX}"):
            yield
        return
    with database.write() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION "
                "'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
            )
        )
        for table in _TRIGGERED:
            connection.execute(
                text(f"CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION no_room()")
            )
    try:
        yield
    finally:
        with database.write() as connection:
            connection.execute(text("DROP FUNCTION no_room CASCADE"))


@contextmanager
def _begun_with(database: Database, during: str, after: str) -> Iterator[None]:
    """Every transaction begins with this. SQLite keeps its word for the whole connection, so it is taken back in each."""
    word = during

    def say(connection: Connection) -> None:
        connection.exec_driver_sql(word)

    event.listen(database.engine, "begin", say)
    try:
        yield
    finally:
        word = after
