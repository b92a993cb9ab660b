"""Reads the engines of canaries beside the event of a decision, and wakes the deployment when figures are there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from controlplane.model.live import EnginePod, LiveMetrics, LiveReading
from operators.runtime import Clock, Key

log = logging.getLogger(__name__)

# Canaries read at once; one that answers late makes another's windows a little longer, not wrong.
_AT_ONCE = 16


class Readings:
    """One per controller. `metrics` None: this installation reads no engines, and every reading is empty."""

    def __init__(self, metrics: LiveMetrics | None, wake: Callable[[Key], None], clock: Clock) -> None:
        self._metrics, self._wake, self._clock = metrics, wake, clock
        self._latest: dict[Key, LiveReading] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def latest(self, key: Key) -> LiveReading | None:
        """What the last answer was."""
        return self._latest.get(key)

    def ask(self, key: Key, pods: Sequence[EnginePod]) -> None:
        """Read now, unless a reading is under way."""
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._read(key, tuple(pods)), name=f"engines of {key}")

    def forget(self, key: Key) -> None:
        """The deployment is gone, or has no canary."""
        self._latest.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    async def run(self) -> None:
        """Until cancelled; then end what reads."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for task in list(self._tasks.values()):
                task.cancel()
            if self._metrics is not None:
                await self._metrics.close()

    async def _read(self, key: Key, pods: tuple[EnginePod, ...]) -> None:
        try:
            async with self._slots:
                time_s = self._clock.utc_now().timestamp()
                counters = {} if self._metrics is None else await self._metrics.read(pods)
        except Exception:
            log.exception("%s: its engines' metrics cannot be read", key)
            counters = {}
        finally:
            if self._tasks.get(key) is asyncio.current_task():
                del self._tasks[key]
        self._latest[key] = LiveReading(time_s, counters)
        self._wake(key)
