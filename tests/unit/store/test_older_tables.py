"""A database of the first version, brought to this one with what it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, insert, text
from sqlalchemy.engine import make_url

from controlplane.model.tuning import TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.store import migrate
from controlplane.store.database import Database, open_database
from controlplane.store.jobs import Jobs
from controlplane.store.studies import Studies
from controlplane.store.tables import metadata
from controlplane.store.trials import Trials


@pytest.fixture(params=["sqlite", "postgresql"])
def first(request: pytest.FixtureRequest, tmp_path: Path, server: Callable[[], str]) -> Iterator[Database]:
    """An empty database with the tables of the first version."""
    url = f"sqlite:///{tmp_path}/trimtab.db"
    if request.param == "postgresql":
        beside = open_database(server())
        with beside.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CREATE DATABASE older"))
        beside.close()
        url = make_url(server()).set(database="older").render_as_string(hide_password=False)
    database = open_database(url)
    with database.write() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    yield database
    database.close()


def test_what_the_first_version_stored_is_there_and_goes_on(first: Database, spec: TuningSpec, now: datetime) -> None:
    old = MetaData()
    old.reflect(first.engine)
    job = {
        "id": "j", "tenant": "t", "name": "n", "spec": spec.model_dump(mode="json", by_alias=True), "protocol": 1,
        "state": "running", "reason": "", "message": "", "budget": 20, "generation": 1, "events": 1, "asked": 1,
        "waiting": 1, "leased": 0, "done": 0, "infeasible": 0, "failed": 0, "cancelled": 0, "created_at": 0,
    }  # fmt: skip
    trial = {
        "job": "j", "number": 0, "state": "waiting", "purpose": "search", "setting": {"a": 1}, "canonical": "c",
        "why": "start", "seed": 0, "attempt": 0, "lost": 0, "asked_at": 0, "reason": "",
    }  # fmt: skip
    with first.write() as connection:
        connection.execute(insert(old.tables["jobs"]).values(job))
        connection.execute(insert(old.tables["trials"]).values(trial))
    migrate.upgrade(first)
    assert migrate.current(first) == migrate.newest()
    with first.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert Jobs(first).get("j").spec == spec
    leased = Trials(first).lease("j/0", owner="w", seconds=30, now=now)
    assert leased is not None and leased.bar is None
    (found,) = Studies(first).trials_from("j", 0)
    assert (found.state, found.share) == (TrialState.LEASED, None)
