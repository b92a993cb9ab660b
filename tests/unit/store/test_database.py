"""Opening, upgrading, and errors in plain words."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.ports import STORE_DOWN
from controlplane.store.database import Database, open_database
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import current, newest, upgrade, upgrade_when_up
from controlplane.store.tables import metadata


def test_migrations_make_the_tables_that_the_code_has(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert current(database) == newest()


def test_a_server_that_is_lost_without_a_word_is_found_out(database: Database) -> None:
    if database.embedded:
        pytest.skip("a file has no network")
    url = database.engine.url.render_as_string(hide_password=False)
    for query, wanted in (("", "25000"), ("?tcp_user_timeout=7000", "7000")):
        other = open_database(url + query)
        with other.read() as connection:
            raw = connection.connection.dbapi_connection
            assert raw is not None
            known = raw.info.get_parameters()
        other.close()
        assert (known["tcp_user_timeout"], known["keepalives_idle"]) == (wanted, "10")


def test_many_processes_may_upgrade_at_once(tmp_path: Path) -> None:
    url, failed = f"sqlite:///{tmp_path}/x.db", []

    def start() -> None:
        database = open_database(url)
        try:
            upgrade(database)
        except Exception as error:
            failed.append(error)
        database.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/x.db")
    upgrade(database)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Refused) as caught:
        upgrade(database)
    assert caught.value.reason == "StoreTooNew"
    database.close()


def test_a_database_that_is_still_starting_is_waited_for() -> None:
    database = open_database("postgresql://nobody@127.0.0.1:1/x")
    waited: list[float] = []

    class Enough(Exception):
        pass

    def pause(pause_s: float) -> None:
        waited.append(pause_s)
        if len(waited) == 7:
            raise Enough

    with pytest.raises(Enough):
        upgrade_when_up(database, pause)
    assert waited == [0.5, 1, 2, 4, 8, 10, 10]
    database.close()


def test_waiting_does_not_help_against_a_newer_version(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/x.db")
    upgrade(database)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Refused) as caught:
        upgrade_when_up(database, lambda _: pytest.fail("waited"))
    assert caught.value.reason == "StoreTooNew"
    database.close()


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://h/d", "sqlite://", "sqlite:///:memory:"])
def test_urls_are_checked(url: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        open_database(url)
    assert caught.value.field == "TRIMTAB_DATABASE_URL"


def test_a_password_is_never_repeated() -> None:
    with pytest.raises(InvalidSpec) as caught:
        open_database("oracle://me:secret@host/x")
    assert "secret" not in str(caught.value) and "secret" not in str(caught.value.as_dict())


def test_an_empty_database_says_what_to_do(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(Refused) as caught:
        Jobs(database).get("j")
    assert caught.value.reason == "StoreNotMigrated"
    database.close()


def test_nobody_answering_is_told_as_such() -> None:
    database = open_database("postgresql://nobody@127.0.0.1:1/x")
    with pytest.raises(Refused) as caught:
        Jobs(database).get("j")
    assert caught.value.reason == "StoreUnreachable" and caught.value.reason in STORE_DOWN
    database.close()


def test_connections_that_are_all_in_use_are_told_as_a_store_that_is_busy(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/x.db", pool_size=1, max_overflow=0, pool_timeout=0.01)
    database = Database(engine)
    with database.read(), pytest.raises(Refused) as refused, database.read():
        pass
    assert refused.value.reason == "StoreBusy" and refused.value.reason in STORE_DOWN
    database.close()


def test_errors_repeat_nothing_of_what_was_to_be_stored(database: Database) -> None:
    with pytest.raises(DBAPIError) as error, database.write() as connection:
        connection.execute(text("INSERT INTO jobs (id, name) VALUES (:id, :secret)"), {"id": "j", "secret": "hunter2"})
    assert "hunter2" not in str(error.value).partition("DETAIL")[0]


def test_a_read_only_file_is_told_as_such(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    database = open_database(f"sqlite:///{file}")
    upgrade(database)
    database.close()
    read_only = open_database(f"sqlite:///file:{file}?mode=ro&uri=true")
    with pytest.raises(Refused) as caught:
        upgrade_nothing(read_only)
    assert caught.value.reason == "StoreReadOnly" and caught.value.reason in STORE_DOWN
    read_only.close()


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/x.db")
    upgrade(database)
    with database.read() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    with database.engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(Refused) as caught, database.write() as connection:
        connection.execute(text("CREATE TABLE big AS SELECT randomblob(1000000) AS x"))
    assert caught.value.reason == "StoreFull" and caught.value.reason in STORE_DOWN
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0
    database.close()


def test_files_are_in_wal_mode(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/x.db")
    upgrade(database)
    with sqlite3.connect(tmp_path / "x.db") as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    database.close()


def upgrade_nothing(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("DELETE FROM jobs"))
