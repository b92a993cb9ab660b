"""Who is woken when room appears, in which order, and how often."""

from __future__ import annotations

from controlplane.testing import FakeClock
from operators.serving.waiting import Waiting


async def test_by_rank_then_age_once_per_burst() -> None:
    clock, woken = FakeClock(), []
    waiting = Waiting(woken.append, clock)
    waiting.room()
    assert not waiting.due, "nobody waits"
    waiting.add("low", 2, 1.0)
    waiting.add("young", 0, 9.0)
    waiting.add("old", 0, 3.0)
    waiting.add("gone", 0, 0.0)
    waiting.discard("gone")
    for _ in range(5):
        waiting.room()
    assert waiting.due
    await clock.advance(1.0)
    assert woken == ["old", "young", "low"]
    assert not waiting.due
    assert "old" in waiting
    assert len(waiting) == 3


async def test_many_are_woken_less_often() -> None:
    clock, woken = FakeClock(), []
    waiting = Waiting(woken.append, clock)
    for number in range(5_000):
        waiting.add(f"d{number}", 1, float(number))
    waiting.room()
    await clock.advance(1.9)
    assert not woken
    await clock.advance(0.2)
    assert len(woken) == 5_000


async def test_flush_comes_before_the_timer_and_replaces_it() -> None:
    clock, woken = FakeClock(), []
    waiting = Waiting(woken.append, clock)
    waiting.add("a", 0, 0.0)
    waiting.room()
    waiting.flush()
    await clock.advance(5.0)
    assert woken == ["a"]
