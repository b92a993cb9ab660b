"""`Manager`: caches first, then leadership, then workers; on the way out the same in reverse."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from operators.runtime.controller import Controller
from operators.runtime.fence import Fence
from operators.runtime.informer import Informer

log = logging.getLogger(__name__)

STOP_GRACE_S = 20.0


class Manager:
    """Wires the parts of an operator process together and runs them until `stop` is called."""

    def __init__(self, *, fence: Fence | None = None, stop_grace_s: float = STOP_GRACE_S) -> None:
        self.fence = fence or Fence.always_open()
        self._stop_grace_s = stop_grace_s
        self._informers: list[Informer[Any, Any]] = []
        self._controllers: list[Controller] = []
        self._stopping = asyncio.Event()

    def add_informer(self, informer: Informer[Any, Any]) -> None:
        self._informers.append(informer)

    def add_controller(self, controller: Controller) -> None:
        self._controllers.append(controller)

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Until `stop`: sync the caches, run the controllers; then let them finish."""
        informers = [asyncio.create_task(i.run()) for i in self._informers]
        try:
            for informer in self._informers:
                await informer.wait_synced()
            workers = [asyncio.create_task(c.run()) for c in self._controllers]
            await self._stopping.wait()
            await asyncio.gather(*(c.stop(self._stop_grace_s) for c in self._controllers))
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        finally:
            for task in informers:
                task.cancel()
            await asyncio.gather(*informers, return_exceptions=True)
