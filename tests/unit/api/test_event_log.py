"""The event log: bounded, resumable, honest about what it no longer holds."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from controlplane.bus import EventLog
from controlplane.model.events import Change


def change(n: int) -> Change:
    return Change("modified", "GPUPool", None, f"pool-{n}", b"{}")


async def test_resume_gives_exactly_what_followed() -> None:
    log = EventLog(capacity=10, epoch="e")
    for n in range(5):
        log.publish(change(n))
    entries = log.after(3)
    assert entries is not None
    assert [e.number for e in entries] == [4, 5]
    assert log.after(5) == ()


async def test_ids_of_another_process_and_nonsense_are_gaps() -> None:
    log = EventLog(capacity=10, epoch="e")
    log.publish(change(0))
    assert log.position("e-1") == 1
    for bad in ["f-1", "e-2", "e--1", "", "e-x", "e-" + "9" * 40, "-1"]:
        assert log.position(bad) is None, bad


async def test_what_left_the_log_is_a_gap() -> None:
    log = EventLog(capacity=3, epoch="e")
    for n in range(10):
        log.publish(change(n))
    assert log.after(6) is None
    assert log.position("e-6") is None
    held = log.after(7)
    assert held is not None
    assert [e.number for e in held] == [8, 9, 10]


async def test_readers_wake_on_publish() -> None:
    log = EventLog()
    waiting = asyncio.create_task(log.wait_beyond(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    log.publish(change(0))
    await asyncio.wait_for(waiting, 1)


@given(st.integers(1, 20), st.integers(0, 60), st.integers(0, 70))
def test_after_is_complete_or_none(capacity: int, published: int, number: int) -> None:
    async def check() -> None:
        log = EventLog(capacity)
        for n in range(published):
            log.publish(change(n))
        entries = log.after(number)
        lost = number < published - capacity or number > published
        assert (entries is None) == lost
        if entries is not None:
            assert [e.number for e in entries] == list(range(number + 1, published + 1))

    asyncio.run(check())
