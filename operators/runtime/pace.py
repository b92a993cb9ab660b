"""When a watch that has just been read is read again: events that come one by one cost several times more CPU than the
same events taken together."""

from __future__ import annotations

import asyncio

from operators.runtime.clock import Clock, SystemClock, Timer

# What a controller waits for takes seconds, and an event after a quiet moment is read at once anyway. Handled together,
# 30 deployments a second cost an eighth less CPU than at 0.02 s; 0.1 s saves little more.
LEADER_INTERVAL_S = 0.05
# Long enough to make a standby cheap, short enough for a burst to fit into the socket's buffer meanwhile.
STANDBY_INTERVAL_S = 0.25


class Pace:
    """Shared by the watches of a process, so that they rest and wake together."""

    def __init__(self, clock: Clock | None = None, interval_s: float = 0.0) -> None:
        self._clock: Clock = clock or SystemClock()
        self._interval_s = interval_s
        self._tick: asyncio.Event | None = None
        self._timer: Timer | None = None

    @property
    def interval_s(self) -> float:
        """0: nobody rests."""
        return self._interval_s

    def change(self, interval_s: float) -> None:
        """From now on; those who rest now go on at once."""
        self._interval_s = interval_s
        if self._timer is not None:
            self._timer.cancel()
            self._ring()

    async def rest(self) -> None:
        """Until the next multiple of the interval."""
        if self._interval_s <= 0:
            return
        if self._tick is None:
            self._tick = asyncio.Event()
            left_s = self._interval_s - self._clock.monotonic_s() % self._interval_s
            self._timer = self._clock.call_later(left_s, self._ring)
        await self._tick.wait()

    def _ring(self) -> None:
        tick, self._tick, self._timer = self._tick, None, None
        if tick is not None:
            tick.set()
