"""Fixtures: a store on each database there is. A conftest that imports them has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import delete

from controlplane.store.database import Database, open_database
from controlplane.store.migrate import upgrade
from controlplane.store.tables import metadata
from tests.servers import ServerMissing, postgresql


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
