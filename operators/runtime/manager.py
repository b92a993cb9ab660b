"""`Manager`: caches first, then leadership, then workers; on the way out the same in reverse."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from operators.runtime.controller import Controller
from operators.runtime.endpoints import Endpoints
from operators.runtime.fence import Fence
from operators.runtime.informer import Informer
from operators.runtime.informer_metrics import InformerCollector
from operators.runtime.leader import LeaderElector
from operators.runtime.memory import settle_memory
from operators.runtime.metrics import RuntimeMetrics
from operators.runtime.offload import Offload
from operators.runtime.pace import LEADER_INTERVAL_S, STANDBY_INTERVAL_S, Pace
from operators.runtime.watchdog import FenceWatchdog

log = logging.getLogger(__name__)

# Within Kubernetes' default terminationGracePeriodSeconds of 30, with time left to release the lease.
STOP_GRACE_S = 20.0
# What gathered for a standby's watches is read within this time, and its first decisions rest on it.
_CATCH_UP_S = 0.05


class Manager:
    """Wires the parts of an operator process together and runs them until `stop` or SIGTERM.

    Without an elector the process leads from the start. `background` takes whatever else must run while the process
    lives (an event recorder); it is cancelled last.
    """

    def __init__(
        self,
        *,
        metrics: RuntimeMetrics | None = None,
        fence: Fence | None = None,
        stop_grace_s: float = STOP_GRACE_S,
    ) -> None:
        self.metrics = metrics or RuntimeMetrics()
        self.fence = fence or Fence()
        self.offload = Offload()
        self._pace = Pace(interval_s=STANDBY_INTERVAL_S)
        self._stop_grace_s = stop_grace_s
        self._informers: list[Informer[Any, Any]] = []
        self._controllers: list[Controller] = []
        self._background: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._elector: LeaderElector | None = None
        self._watchdog: FenceWatchdog | None = None
        self._stopping = asyncio.Event()
        self._failed: list[str] = []
        self._collector = InformerCollector()
        self.metrics.registry.register(self._collector)
        self.endpoints = Endpoints(self.metrics.registry, healthy=self._unhealthy, ready=self._unready)

    def add_informer(self, informer: Informer[Any, Any]) -> None:
        informer.follow(self._pace)
        self._informers.append(informer)
        self._collector.informers.append(informer)

    def add_controller(self, controller: Controller) -> None:
        self._controllers.append(controller)

    def add_background(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._background.append(run)

    def elect(self, elector: LeaderElector, watchdog: FenceWatchdog | None = None) -> None:
        """Lead only after `elector` says so; it must hold this manager's fence."""
        if elector.fence is not self.fence:
            raise ValueError("the elector must open the manager's own fence, or writers would check another one")
        self._elector = elector
        self._watchdog = watchdog or FenceWatchdog(self.fence)

    def stop(self) -> None:
        """Begin the orderly end; `run` returns when it is done."""
        self._stopping.set()

    async def run(self, *, handle_signals: bool = False) -> None:
        """Until `stop`: sync the caches, become leader, run the controllers; then let them finish."""
        if handle_signals:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
        background = [self._task(run(), "background") for run in self._background]
        informers = [self._task(informer.run(), informer.name) for informer in self._informers]
        elector: asyncio.Task[None] | None = None
        try:
            if not await self._or_stop(self._synced()):
                return
            settle_memory()
            if self._elector is None:
                self.fence.extend_to(float("inf"))
            else:
                elector = self._task(self._elector.run(), "leader election")
                if not await self._or_stop(self._elector.leading.wait()):
                    return
                assert self._watchdog is not None
                self._watchdog.arm()
                self.metrics.leader.labels(self._elector.name).set(1)
            self._pace.change(LEADER_INTERVAL_S)
            await asyncio.sleep(_CATCH_UP_S)
            await self._work()
        finally:
            await self._leave(elector)
            self.offload.close()
            await _end([*informers, *background])

    async def _work(self) -> None:
        workers = [self._task(controller.run(), controller.name) for controller in self._controllers]
        await self._stopping.wait()
        log.info("stopping: waiting up to %g s for running reconciles", self._stop_grace_s)
        finished = await asyncio.gather(*(c.stop(self._stop_grace_s) for c in self._controllers))
        if not all(finished):
            log.warning("some reconciles did not finish in %g s and are cancelled", self._stop_grace_s)
        await _end(workers)

    async def _leave(self, elector: asyncio.Task[None] | None) -> None:
        if self._elector is None:
            self.fence.revoke()
            return
        if self._watchdog is not None:
            self._watchdog.disarm()
        if elector is not None:
            await _end([elector])
        await self._elector.release()
        self.metrics.leader.labels(self._elector.name).set(0)

    async def _synced(self) -> None:
        for informer in self._informers:
            await informer.wait_synced()

    async def _or_stop(self, wanted: Coroutine[Any, Any, Any]) -> bool:
        """Wait for `wanted`; False when the stop came first."""
        waiting = asyncio.ensure_future(wanted)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
            return not self._stopping.is_set()
        finally:
            await _end([waiting, stopping])

    def _task(self, run: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(run, name=name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        # None of these tasks ends by itself: this is an error in our code, and a restart is the way out.
        log.critical("%s died", task.get_name(), exc_info=task.exception())
        self._failed.append(task.get_name())

    def _unhealthy(self) -> str | None:
        return f"died: {', '.join(self._failed)}" if self._failed else None

    def _unready(self) -> str | None:
        waiting = [
            f"{informer.name}: {informer.health.last_error or 'first list not complete'}"
            for informer in self._informers
            if not informer.synced
        ]
        return self._unhealthy() or ("; ".join(waiting) or None)


async def _end(tasks: list[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
