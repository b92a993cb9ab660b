"""Two replicas as real processes against a fake API server that sees every write: stopped, killed, asked to end."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from controlplane.testing import FakeApiServer
from operators.runtime.watchdog import LOST_LEASE_EXIT_CODE

MAPS = "/v1/configmaps"


async def until(condition: Callable[[], object], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.02)


def writers(server: FakeApiServer) -> list[str]:
    """Who wrote, in order, leases apart."""
    return [str(token) for method, path, token in server.requests if method == "PATCH" and "configmaps" in path]


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as fake:
        for n in range(5):
            fake.storage.create(MAPS, "default", {"metadata": {"name": f"m{n}"}})
        yield fake


@asynccontextmanager
async def replica(server: FakeApiServer, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.replica_process", server.url, name
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_leader_stopped_past_its_lease_writes_nothing_when_it_resumes(server):
    async with replica(server, "first") as first:
        await until(lambda: "first" in writers(server))
        async with replica(server, "second"):
            await until(lambda: server.watches.started_total >= 2)
            first.send_signal(signal.SIGSTOP)
            await until(lambda: "second" in writers(server))
            count = len(writers(server))
            first.send_signal(signal.SIGCONT)
            assert await asyncio.wait_for(first.wait(), 10.0) == LOST_LEASE_EXIT_CODE
            await until(lambda: len(writers(server)) > count + 20)
    order = writers(server)
    assert "first" not in order[order.index("second") :]


async def test_a_killed_leader_is_replaced_and_an_orderly_one_at_once(server):
    async with replica(server, "first") as first:
        await until(lambda: "first" in writers(server))
        async with replica(server, "second") as second:
            await until(lambda: server.watches.started_total >= 2)
            first.kill()
            await until(lambda: "second" in writers(server))
            async with replica(server, "third"):
                await until(lambda: server.watches.started_total >= 3)
                second.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(second.wait(), 10.0) == 0
                await until(lambda: "third" in writers(server))
    order = writers(server)
    assert "first" not in order[order.index("second") :]
    assert "second" not in order[order.index("third") :]
