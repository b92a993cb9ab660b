"""The work queue: each key at most once in the queue, never in two workers, retried with growing delays.

As in client-go: `dirty` holds what must be worked on, `processing` what a worker has; a key added while it is
processed is queued once more when the worker is done.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from typing import Protocol

from operators.runtime.clock import Clock, SystemClock, Timer
from operators.runtime.objects import Key
from operators.runtime.token_bucket import TokenBucket

BACKOFF_BASE_S = 0.005
# client-go's 1,000 s leaves an object alone for a quarter of an hour after the API server is back. At a minute, even
# ten thousand failing keys ask less than RETRY_RATE_PER_S.
BACKOFF_MAX_S = 60.0
# client-go's bucket of 10/s with a burst of 100 throttles a recovery of thousands of objects to minutes.
RETRY_RATE_PER_S = 300.0
RETRY_BURST = 1_000.0
# Delays that were replaced stay in the heap until they fall due, up to this many.
_STALE_ENTRIES = 1_000


class QueueObserver(Protocol):
    """Told of everything worth a metric; durations in seconds."""

    def added(self, depth: int) -> None: ...
    def got(self, depth: int, queued_s: float) -> None: ...
    def done(self, worked_s: float) -> None: ...
    def retried(self) -> None: ...


class WorkQueue:
    """Single event loop, no locks."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        observer: QueueObserver | None = None,
        retry_rate_per_s: float = RETRY_RATE_PER_S,
        retry_burst: float = RETRY_BURST,
        backoff_base_s: float = BACKOFF_BASE_S,
        backoff_max_s: float = BACKOFF_MAX_S,
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._observer = observer
        self._bucket = TokenBucket(self._clock, retry_rate_per_s, retry_burst)
        self._backoff_base_s = backoff_base_s
        self._backoff_max_s = backoff_max_s
        self._queue: deque[Key] = deque()
        self._dirty: dict[Key, float] = {}  # key -> when it became dirty
        self._processing: dict[Key, float] = {}  # key -> when the worker got it
        self._failures: dict[Key, int] = {}
        self._due_s: dict[Key, float] = {}
        self._delayed: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._timer: Timer | None = None
        self._timer_due_s = float("inf")
        self._getters: deque[asyncio.Future[None]] = deque()
        self._drained: asyncio.Event = asyncio.Event()
        self._shutting_down = False

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def shutting_down(self) -> bool:
        return self._shutting_down

    @property
    def processing_since_s(self) -> dict[Key, float]:
        """What workers hold now, and the monotonic time they got it."""
        return dict(self._processing)

    @property
    def waiting(self) -> int:
        """Keys whose delay has not passed yet."""
        return len(self._due_s)

    def add(self, key: Key) -> None:
        """Work on `key` soon. Nothing happens when it is queued already, or after shut-down."""
        if self._shutting_down or key in self._dirty:
            return
        self._dirty[key] = self._clock.monotonic_s()
        if key in self._processing:
            return
        self._push(key)

    def add_after(self, key: Key, delay_s: float) -> None:
        """Work on `key` after `delay_s`; of several pending delays for a key the earliest counts."""
        if self._shutting_down:
            return
        if delay_s <= 0:
            self.add(key)
            return
        due_s = self._clock.monotonic_s() + delay_s
        known_s = self._due_s.get(key)
        if known_s is not None and known_s <= due_s:
            return
        self._due_s[key] = due_s
        heapq.heappush(self._delayed, (due_s, next(self._order), key))
        if len(self._delayed) > _STALE_ENTRIES + 2 * len(self._due_s):
            self._delayed = [(due_s, next(self._order), key) for key, due_s in self._due_s.items()]
            heapq.heapify(self._delayed)
        self._arm()

    def add_rate_limited(self, key: Key) -> float:
        """Work on `key` after its back-off, min(base * 2^failures, max), and the global limit. Returns the delay."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # 2^failures overflows a float long before the exponent stops growing.
        backoff_s = min(self._backoff_base_s * 2.0 ** min(failures, 60), self._backoff_max_s)
        delay_s = max(backoff_s, self._bucket.reserve_s())
        if self._observer is not None:
            self._observer.retried()
        self.add_after(key, delay_s)
        return delay_s

    def forget(self, key: Key) -> None:
        """The key has been dealt with: its next failure starts at the shortest delay again."""
        self._failures.pop(key, None)

    def settle(self, key: Key, again_after_s: float | None = None) -> None:
        """`forget`, and of the looks planned for `key` only this one stays: who has just looked knows best when next."""
        self.forget(key)
        self._due_s.pop(key, None)
        if again_after_s is not None:
            self.add_after(key, again_after_s)

    def failures(self, key: Key) -> int:
        return self._failures.get(key, 0)

    async def get(self) -> Key | None:
        """The next key, now in processing until `done`; None once the queue is shut down and empty."""
        while not self._queue:
            if self._shutting_down:
                return None
            getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except BaseException:
                # Cancelled just after being woken: the wake-up belongs to another worker.
                if getter.done() and not getter.cancelled() and self._queue:
                    self._wake_one()
                raise
        key = self._queue.popleft()
        now_s = self._clock.monotonic_s()
        since_s = self._dirty.pop(key)
        self._processing[key] = now_s
        if self._observer is not None:
            self._observer.got(len(self._queue), now_s - since_s)
        return key

    def done(self, key: Key) -> None:
        """The worker has finished with `key`; a re-add in the meantime queues it now."""
        started_s = self._processing.pop(key, None)
        if started_s is None:
            raise KeyError(f"done({key!r}) without get: the key is not in processing")
        if self._observer is not None:
            self._observer.done(self._clock.monotonic_s() - started_s)
        if key in self._dirty:
            self._push(key)
        elif self._shutting_down and not self._processing and not self._queue:
            self._drained.set()

    def shut_down(self) -> None:
        """Take no more keys and drop pending delays; workers finish what is queued, then `get` gives None."""
        self._shutting_down = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._delayed.clear()
        self._due_s.clear()
        if not self._processing and not self._queue:
            self._drained.set()
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)

    def discard_queued(self) -> int:
        """Forget all but what workers hold now (the next leader looks at every object anew). Returns how many."""
        dropped = len(self._queue)
        self._dirty.clear()
        self._queue.clear()
        if self._shutting_down and not self._processing:
            self._drained.set()
        return dropped

    async def drained(self) -> None:
        """Wait after `shut_down` until nothing is queued or processed any more."""
        await self._drained.wait()

    def _push(self, key: Key) -> None:
        self._queue.append(key)
        if self._observer is not None:
            self._observer.added(len(self._queue))
        self._wake_one()

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _arm(self) -> None:
        if not self._delayed:
            return
        first_s = self._delayed[0][0]
        if self._timer is not None:
            if self._timer_due_s <= first_s:
                return
            self._timer.cancel()
        self._timer_due_s = first_s
        self._timer = self._clock.call_later(max(0.0, first_s - self._clock.monotonic_s()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now_s = self._clock.monotonic_s()
        while self._delayed and self._delayed[0][0] <= now_s:
            due_s, _, key = heapq.heappop(self._delayed)
            if self._due_s.get(key) == due_s:  # otherwise another delay has replaced this entry, or none
                del self._due_s[key]
                self.add(key)
        self._arm()
