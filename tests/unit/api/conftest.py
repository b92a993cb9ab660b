"""The API with a fake planner, and two users who may list pools. Files that need another setup define their own."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.stores import database, server
from tests.unit.api.fakes import Setup

__all__ = ["database", "server"]


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    setup = Setup()
    setup.cluster.users |= {"alice-token": "alice", "bob-token": "bob"}
    for user in ("alice", "bob"):
        setup.cluster.allow(user, "gpupools", "", "list")
    yield setup
    await setup.plans.close()


@pytest.fixture
async def http(setup: Setup) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=setup.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client
