"""A controller: workers that take keys from a queue and bring the cluster closer to each object's spec."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from controlplane.kube import Conflict, KubeError
from operators.runtime.clock import Clock, SystemClock
from operators.runtime.fence import FenceLost
from operators.runtime.metrics import ControllerMetrics
from operators.runtime.objects import Key
from operators.runtime.workqueue import WorkQueue

log = logging.getLogger(__name__)

RECONCILE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """What `reconcile` gives back: look again after so many seconds, or (None) when something changes. It replaces
    what earlier reconciles of the key asked for."""

    requeue_after_s: float | None = None


DONE = Result()
Reconcile = Callable[[Key], Awaitable[Result]]


class TerminalError(Exception):
    """Trying again cannot help until the object changes: logged and counted, not retried."""


class Controller:
    """`reconcile(key)` for every key of its queue, level-triggered: the key may be gone, or nothing may have changed.

    `seeds` gives the keys to start with, usually `informer.store.all_keys`: a standby then need not collect keys
    for the months it waits, and a new leader looks at every object once.

    An exception is logged, counted and retried with back-off; it never reaches other keys or workers.
    """

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        workers: int = 8,
        timeout_s: float = RECONCILE_TIMEOUT_S,
        queue: WorkQueue | None = None,
        metrics: ControllerMetrics | None = None,
        seeds: Callable[[], Iterable[Key]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"controller {name}: workers={workers}, at least 1 is needed")
        self.name = name
        self._reconcile = reconcile
        self._workers = workers
        self._timeout_s = timeout_s
        self._clock: Clock = clock or SystemClock()
        self._metrics: ControllerMetrics = metrics or ControllerMetrics()
        self.queue = queue or WorkQueue(self._clock, observer=self._metrics)
        self._metrics.bind(self.queue, workers)
        self._seeds = seeds
        self._running = False

    def enqueue(self, key: Key) -> None:
        """For handlers: work on `key` soon. Dropped before `run` when there are `seeds` to start from then."""
        if self._running or self._seeds is None:
            self.queue.add(key)

    async def run(self) -> None:
        """Work until the queue is shut down and empty; cancelling stops at once."""
        self._running = True
        for key in self._seeds() if self._seeds is not None else ():
            self.queue.add(key)
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(), name=f"{self.name}-{number}")

    async def stop(self, grace_s: float) -> bool:
        """Take no more keys, let running reconciles finish for up to `grace_s`. False when some did not."""
        self.queue.shut_down()
        self.queue.discard_queued()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.queue.drained()
                return True
        return False

    async def _work(self) -> None:
        while (key := await self.queue.get()) is not None:
            try:
                await self._one(key)
            finally:
                self.queue.done(key)

    async def _one(self, key: Key) -> None:
        queue, metrics = self.queue, self._metrics
        started_s = self._clock.monotonic_s()
        metrics.started()
        outcome = "error"
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                result = await self._reconcile(key)
            outcome = "success" if result.requeue_after_s is None else "requeue_after"
            queue.settle(key, result.requeue_after_s)
        except FenceLost as error:
            # A renewal that comes through late opens the fence again, and nothing else would wake this key.
            outcome = "fenced"
            delay_s = queue.add_rate_limited(key)
            log.warning("%s %s: %s; again in %.3f s", self.name, key, error, delay_s)
        except TerminalError as error:
            metrics.terminal_error()
            queue.forget(key)
            log.error("%s %s: %s (not retried until the object changes)", self.name, key, error)
        except Conflict as error:
            # The cache was behind: the newer version is on its way, and will enqueue the key itself if it matters.
            delay_s = queue.add_rate_limited(key)
            log.debug("%s %s: %s; again in %.3f s", self.name, key, error, delay_s)
        except TimeoutError:
            if limit.expired():
                metrics.timed_out()
            delay_s = queue.add_rate_limited(key)
            log.error("%s %s: no end within %g s; again in %.3f s", self.name, key, self._timeout_s, delay_s)
        except KubeError as error:
            delay_s = queue.add_rate_limited(key)
            log.warning("%s %s: %s; again in %.3f s", self.name, key, error, delay_s)
        except Exception:
            metrics.panicked()
            delay_s = queue.add_rate_limited(key)
            log.exception("%s %s failed %d times; again in %.3f s", self.name, key, queue.failures(key), delay_s)
        finally:
            metrics.finished(outcome, self._clock.monotonic_s() - started_s)
