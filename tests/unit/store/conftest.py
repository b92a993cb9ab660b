"""A store on each database there is, and a job to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import delete

from controlplane.model.tuning_job import TuningSpec
from controlplane.store.database import Database, open_database
from controlplane.store.migrate import upgrade
from controlplane.store.tables import metadata
from tests.servers import ServerMissing, postgresql

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = TuningSpec.model_validate(
    {
        "target": {"kind": "command", "command": ["true"]},
        "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 100}]},
        "objectives": [{"metric": "value"}],
        "limits": [{"metric": "ttft_p90_ms", "atMost": 200}],
        "budget": {"trials": 20},
        "measuring": {"attempts": 3},
    }
)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def spec() -> TuningSpec:
    return SPEC


@pytest.fixture(scope="session")
def server() -> Iterator[Callable[[], str]]:
    """URL of a PostgreSQL that starts when first wanted."""
    started: list[str] = []
    with ExitStack() as stack:

        def url() -> str:
            if not started:
                try:
                    started.append(stack.enter_context(postgresql()))
                except ServerMissing as missing:
                    pytest.skip(str(missing))
            return started[0]

        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, server: Callable[[], str]) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/trimtab.db" if request.param == "sqlite" else server()
    database = open_database(url)
    upgrade(database)
    try:
        yield database
        with database.write() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(delete(table))
    finally:
        database.close()
