"""Virtual time: nothing happens until a test says how much of it has passed."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class FakeTimer:
    """A pending callback of a `FakeClock`."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class FakeClock:
    """Fulfils `operators.runtime.Clock`. `rate` and `offset_s` make one of several clocks run fast, slow or ahead.

    Several clocks may share one `FakeClock` as `source`: advancing the source advances them all, each at its rate,
    and one of them can be frozen, as a process is by SIGSTOP.
    """

    def __init__(
        self,
        *,
        start: datetime | None = None,
        source: FakeClock | None = None,
        rate: float = 1.0,
        offset_s: float = 0.0,
    ) -> None:
        self._start = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._source = source
        self._rate = rate
        self._offset_s = offset_s
        self._now_s = 0.0
        self._pending: list[tuple[float, int, FakeTimer]] = []
        self._order = itertools.count()
        self._frozen = False
        self._late: list[FakeTimer] = []

    def monotonic_s(self) -> float:
        if self._source is not None:
            return self._source.monotonic_s() * self._rate + self._offset_s
        return self._now_s * self._rate + self._offset_s

    def utc_now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic_s())

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeTimer:
        """After `delay_s` of this clock's own seconds; while frozen, as soon as it thaws."""
        timer = FakeTimer(callback)
        if self._source is not None:
            self._source.call_later(delay_s / self._rate, lambda: self._fire(timer))
        else:
            heapq.heappush(self._pending, (self._now_s + delay_s / self._rate, next(self._order), timer))
        return timer

    def freeze(self) -> None:
        """What a stopped process sees: time goes on, its timers do not fire."""
        self._frozen = True

    async def thaw(self) -> None:
        """Fire everything that fell due while frozen."""
        self._frozen = False
        late, self._late = self._late, []
        for timer in late:
            timer.fire()
        await settle()

    def _fire(self, timer: FakeTimer) -> None:
        if self._frozen:
            self._late.append(timer)
        else:
            timer.fire()

    async def sleep(self, delay_s: float) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        timer = self.call_later(delay_s, wake)
        try:
            await done
        finally:
            timer.cancel()

    async def advance(self, delay_s: float) -> None:
        """Let `delay_s` pass, firing what falls due in order and letting tasks run between two firings."""
        if self._source is not None:
            raise RuntimeError("advance the source of this clock, not the clock itself")
        target_s = self._now_s + delay_s
        await settle()
        while self._pending and self._pending[0][0] <= target_s:
            due_s, _, timer = heapq.heappop(self._pending)
            self._now_s = max(self._now_s, due_s)
            timer.fire()
            await settle()
        self._now_s = target_s
        await settle()


async def settle(rounds: int = 20) -> None:
    """Give every task that can run the chance to do so (tasks that wait for real I/O are not awaited)."""
    for _ in range(rounds):
        await asyncio.sleep(0)
