"""What goes wrong with a database, made to happen to a real one and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, event, text

from controlplane.store.database import Database
from controlplane.store.tables import jobs, trials

_TRIGGERED = (jobs.name, trials.name)


@contextmanager
def read_only(database: Database) -> Iterator[None]:
    """Every write is refused, as on a standby or a disk that was mounted read-only."""

    def deny(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA query_only=ON" if database.embedded else "SET TRANSACTION READ ONLY")

    event.listen(database.engine, "begin", deny)
    try:
        yield
    finally:
        event.remove(database.engine, "begin", deny)
        database.engine.dispose()  # SQLite's word holds for a connection


@contextmanager
def full(database: Database) -> Iterator[None]:
    """The disk has no room left. SQLite's file may not grow, so that small writes into it still succeed; PostgreSQL's
    tables of jobs and trials say what a server with a full disk says."""
    if database.embedded:
        with database.read() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()

        def limit(connection: Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

        event.listen(database.engine, "begin", limit)
        try:
            yield
        finally:
            event.remove(database.engine, "begin", limit)
            database.engine.dispose()
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
