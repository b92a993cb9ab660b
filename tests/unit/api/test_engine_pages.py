"""Which pods are engines, and their pages over real HTTP: whole, bounded, and no redirect is followed."""

import gzip
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from controlplane.api.engines import targets
from controlplane.engine_pages import fetch_page, session
from controlplane.model import labels
from telemetry.collectors.engine import MAX_PAGE_BYTES
from tests.unit.api.fakes import Setup

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

    async def packed(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=gzip.compress(LINE), headers={"Content-Encoding": "gzip"})

    app = web.Application()
    app.router.add_get("/packed", packed)
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


async def test_nothing_is_unpacked(engine: str, http: aiohttp.ClientSession) -> None:
    assert gzip.decompress(await fetch_page(http, f"{engine}/packed")) == LINE


def pod(owner_uid: str = "u-chat", deployment: str = "chat", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "labels": {labels.DEPLOYMENT: deployment, labels.ENGINE: "vllm"},
            "ownerReferences": [{"uid": owner_uid, "controller": True}] if owner_uid else [],
        },
        "status": {"podIP": "10.244.0.7", "hostIP": "192.0.2.1"} | status,
        "spec": {},
    }


def urls(setup: Setup) -> list[str]:
    return [found.url for found in targets(setup.cache, "me", frozenset())]


async def test_an_engine_is_a_pod_its_deployment_controls() -> None:
    setup = Setup()
    setup.put_engine_pod("mine", "a", pod())
    assert urls(setup) == []  # there is no such deployment
    setup.put("ServingDeployment", "chat", "a")
    assert urls(setup) == ["http://10.244.0.7:8000/metrics"]
    setup.remove("ServingDeployment", "chat", "a")
    setup.put("ServingDeployment", "chat", "b")
    assert urls(setup) == []


@pytest.mark.parametrize(
    "stranger",
    [
        pod(owner_uid=""),
        pod(owner_uid="u-another"),
        pod(deployment="another"),
        pod(podIP=""),
        pod(podIP="127.0.0.1"),
        pod(podIP="169.254.169.254"),
        pod(podIP="::ffff:127.0.0.1"),
        pod(podIP="192.0.2.1"),
        pod() | {"spec": {"hostNetwork": True}},
    ],
)
async def test_other_pods_are_never_asked(stranger: dict[str, Any]) -> None:
    setup = Setup()
    setup.put("ServingDeployment", "chat", "a")
    setup.put_engine_pod("x", "a", stranger)
    assert urls(setup) == []
