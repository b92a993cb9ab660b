"""Event streams: complete, resumable, honest about gaps, and never more than the reader may see."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest

from controlplane.api.auth import Identity
from controlplane.api.cache import CORE_EVENTS, GPU_POOLS, SERVING_DEPLOYMENTS
from controlplane.api.stream import Streamed, follow
from tests.unit.api.fakes import Setup


@pytest.fixture
async def setup() -> Setup:
    setup = Setup()
    setup.cluster.users["alice"] = "alice"
    setup.cluster.allow("alice", "servingdeployments", "a", "watch")
    return setup


async def open_stream(setup: Setup, last_event_id: str | None = None, token: str = "alice") -> AsyncIterator[bytes]:
    identity: Identity = await setup.authority.identify(f"Bearer {token}")
    cache = setup.cache
    kinds = {
        "GPUPool": Streamed(GPU_POOLS, lambda: cache.state("GPUPool")),
        "ServingDeployment": Streamed(SERVING_DEPLOYMENTS, lambda: cache.state("ServingDeployment")),
        "Event": Streamed(CORE_EVENTS, cache.no_state),
    }
    return follow(setup.log, setup.authority, identity, kinds, last_event_id, now=setup.clock.now_s)


async def until(stream: AsyncIterator[bytes], word: bytes) -> list[tuple[str, str]]:
    """(event, object name) pairs up to and including the first event called `word`."""
    seen: list[tuple[str, str]] = []
    async with asyncio.timeout(5):
        async for chunk in stream:
            for block in chunk.strip().split(b"\n\n"):
                fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
                if b"event" not in fields:
                    continue
                document = json.loads(fields[b"data"])
                seen.append((fields[b"event"].decode(), document.get("metadata", {}).get("name", "")))
                if fields[b"event"] == word:
                    return seen
    raise AssertionError(f"the stream ended before {word!r}: {seen}")


async def test_full_state_first_then_changes_of_what_may_be_seen(setup: Setup) -> None:
    setup.put("ServingDeployment", "mine", "a")
    setup.put("ServingDeployment", "hidden", "b")
    setup.put("GPUPool", "hidden-pool")
    stream = await open_stream(setup)
    assert await until(stream, b"synced") == [("state", "mine"), ("synced", "")]
    setup.put("ServingDeployment", "hidden", "b", version="6")
    setup.put("ServingDeployment", "mine", "a", version="7")
    setup.remove("ServingDeployment", "mine", "a")
    assert await until(stream, b"deleted") == [("modified", "mine"), ("deleted", "mine")]


async def test_resume_continues_exactly(setup: Setup) -> None:
    for version in range(1, 6):
        setup.put("ServingDeployment", "mine", "a", version=str(version))
    stream = await open_stream(setup, "e-3")
    setup.remove("ServingDeployment", "mine", "a")
    assert await until(stream, b"deleted") == [("modified", "mine"), ("modified", "mine"), ("deleted", "mine")]


@pytest.mark.parametrize("lost", ["e-1", "other-5", "nonsense"])
async def test_lost_ids_get_a_gap_and_the_full_state(setup: Setup, lost: str) -> None:
    for version in range(1, 70):
        setup.put("ServingDeployment", "mine", "a", version=str(version))
    stream = await open_stream(setup, lost)
    assert await until(stream, b"synced") == [("gap", ""), ("state", "mine"), ("synced", "")]


async def test_a_reader_that_falls_behind_gets_a_gap_and_the_full_state(setup: Setup) -> None:
    stream = await open_stream(setup)
    await until(stream, b"synced")
    for version in range(1, 70):
        setup.put("ServingDeployment", "mine", "a", version=str(version))
    assert await until(stream, b"synced") == [("gap", ""), ("state", "mine"), ("synced", "")]


async def test_a_withdrawn_right_ends_what_is_shown_within_a_minute(setup: Setup) -> None:
    stream = await open_stream(setup)
    await until(stream, b"synced")
    setup.cluster.rights.clear()
    setup.cluster.allow("alice", "servingdeployments", "b", "watch")
    setup.clock.advance(60)
    setup.put("ServingDeployment", "mine", "a")
    setup.put("ServingDeployment", "other", "b")
    assert await until(stream, b"added") == [("added", "other")]


async def test_a_revoked_token_ends_the_stream(setup: Setup) -> None:
    stream = await open_stream(setup)
    await until(stream, b"synced")
    setup.cluster.users.clear()
    setup.clock.advance(60)
    setup.put("ServingDeployment", "mine", "a")
    assert (await until(stream, b"end"))[-1] == ("end", "")


async def test_the_stream_ends_when_the_token_does(setup: Setup) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": setup.clock.now_s() + 10}).encode()).decode().rstrip("=")
    token = f"x.{claims}.y"
    setup.cluster.users[token] = "alice"
    stream = await open_stream(setup, token=token)
    await until(stream, b"synced")
    setup.clock.advance(10)
    setup.put("ServingDeployment", "mine", "a")
    assert await until(stream, b"end") == [("end", "")]


async def test_many_streams_of_one_caller_share_reviews(setup: Setup) -> None:
    streams = [await open_stream(setup) for _ in range(20)]
    setup.put("ServingDeployment", "mine", "a")
    await asyncio.gather(*(until(stream, b"synced") for stream in streams))
    tokens = [kind for kind, _ in setup.cluster.reviews if kind == "TokenReview"]
    assert len(tokens) == 1
    assert len(setup.cluster.reviews) <= 1 + 3  # the token; watch everywhere for each kind seen, watch in "a"
