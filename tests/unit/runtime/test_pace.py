"""Watches that rest between two reads."""

import asyncio

import pytest

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.testing import FakeApiServer, FakeClock
from controlplane.testing.fake_clock import settle
from operators.runtime.pace import Pace
from tests.unit.runtime.helpers import informer, put, until


async def test_those_who_rest_wake_together_at_the_next_multiple_of_the_interval():
    clock = FakeClock()
    pace = Pace(clock, 0.25)
    woken: list[str] = []

    async def one(name: str) -> None:
        await pace.rest()
        woken.append(name)

    await clock.advance(0.1)
    tasks = [asyncio.create_task(one("a"))]
    await clock.advance(0.1)
    tasks.append(asyncio.create_task(one("b")))
    await clock.advance(0.04)
    assert woken == []
    await clock.advance(0.01)
    assert woken == ["a", "b"]
    await asyncio.gather(*tasks)


async def test_nobody_rests_at_an_interval_of_zero_and_a_change_wakes_who_does():
    clock = FakeClock()
    pace = Pace(clock)
    await pace.rest()
    pace.change(5.0)
    resting = asyncio.create_task(pace.rest())
    await settle()
    assert not resting.done()
    pace.change(0.02)
    await settle()
    assert resting.done()
    again = asyncio.create_task(pace.rest())
    await clock.advance(0.02)
    assert again.done()


async def test_one_who_gives_up_resting_leaves_the_others_asleep():
    clock = FakeClock()
    pace = Pace(clock, 1.0)
    first, second = asyncio.create_task(pace.rest()), asyncio.create_task(pace.rest())
    await settle()
    first.cancel()
    await clock.advance(0.5)
    assert first.cancelled() and not second.done()
    await clock.advance(0.5)
    assert second.done()


@pytest.mark.parametrize("ends", [False, True])
async def test_events_gather_while_the_watch_rests_and_none_is_lost(ends):
    clock = FakeClock()
    pace = Pace(clock, 1.0)
    async with FakeApiServer() as server, KubeClient(ClusterAccess(server.url), timeout_s=5.0) as client:
        pods = informer(client)
        pods.follow(pace)
        seen: list[str] = []
        pods.add_handler(lambda old, new: seen.append((new or old).name))
        task = asyncio.create_task(pods.run())
        await until(lambda: pods.health.watches_total > 0)
        put(server, "a")
        await until(lambda: seen == ["a"])
        for number in range(50):
            put(server, f"p{number}")
        if ends:
            server.watches.end(clean=False)
        await asyncio.sleep(0.05)
        assert seen == ["a"]
        await clock.advance(1.0)
        await until(lambda: len(seen) == 51)
        pace.change(0.0)
        put(server, "b")
        await until(lambda: seen[-1] == "b")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
