"""A lab, and a controller that looks every few milliseconds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.store.database import open_database
from controlplane.testing import FakeApiServer
from operators.tuning import controller
from tests.unit.tuning.lab import Lab


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "POLL_S",
        "POLL_MOST_S",
        "ENDED_S",
        "LEAVING_S",
        "AWAY_S",
        "AWAY_MOST_S",
        "ABSENT_S",
        "REFUSED_OTHERWISE_S",
    ):
        monkeypatch.setattr(controller, name, 0.03)
    monkeypatch.setattr(controller, "REFUSED_S", {})


@pytest.fixture
async def lab(tmp_path: Path, quick: None) -> AsyncIterator[Lab]:
    database = open_database(f"sqlite:///{tmp_path}/trimtab.db")
    try:
        async with FakeApiServer() as server:
            yield Lab(server, database)
    finally:
        database.close()
