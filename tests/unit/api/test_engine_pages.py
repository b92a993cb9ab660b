"""Engine pages over real HTTP: whole, bounded, and no redirect is followed."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from controlplane.api.engines import fetch_page, session
from telemetry.collectors.engine import MAX_PAGE_BYTES

LINE = b"engine_running 123456789\n"


@pytest.fixture
async def engine() -> AsyncIterator[str]:
    async def page(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(int(request.match_info["pieces"])):
            await answer.write(LINE * 4_000)  # 100,000 bytes: more than one read of a socket
        return answer

    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound("/3")

    app = web.Application()
    app.router.add_get("/elsewhere", elsewhere)
    app.router.add_get("/{pieces}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with session() as client:
        yield client


async def test_a_page_in_many_pieces_arrives_whole(engine: str, http: aiohttp.ClientSession) -> None:
    assert await fetch_page(http, f"{engine}/3") == LINE * 12_000


async def test_a_runaway_page_is_cut_just_over_the_limit(engine: str, http: aiohttp.ClientSession) -> None:
    assert len(await fetch_page(http, f"{engine}/60")) == MAX_PAGE_BYTES + 1


async def test_a_redirect_is_an_error(engine: str, http: aiohttp.ClientSession) -> None:
    with pytest.raises(OSError, match="302"):
        await fetch_page(http, f"{engine}/elsewhere")
