"""Health and metrics of `trimtab worker`: its work is done in threads, so probes are answered by a thread as well."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, ProcessCollector

from operators.runtime.endpoints import Check, Endpoints

_START_S = 10.0


class Health:
    """What the probes are told. `watch` adds something that must stay well for the process to be worth keeping."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._checks: list[Check] = []
        self._ready = False

    def watch(self, check: Check) -> None:
        self._checks.append(check)

    def ready(self) -> None:
        """The tables are there, work can be taken."""
        self._ready = True

    def wrong(self) -> str | None:
        """None while all is well."""
        return next((said for check in self._checks if (said := check()) is not None), None)

    def not_ready(self) -> str | None:
        """None once work can be taken."""
        return None if self._ready else "the database has not answered yet"


def silence(last_s: Callable[[], float], now_s: Callable[[], float], limit_s: float, what: str) -> Check:
    """A check that fails when `last_s` is longer ago than `limit_s`."""

    def check() -> str | None:
        ago_s = now_s() - last_s()
        return f"{what}: nothing for {ago_s:.0f} s" if ago_s > limit_s else None

    return check


@contextmanager
def probed(health: Health, host: str, port: int) -> Iterator[int]:
    """Answer probes on this address while the block runs; the port that is listened on. Port 0: nothing is served."""
    if port == 0:
        yield 0
        return
    endpoints = Endpoints(health.registry, healthy=health.wrong, ready=health.not_ready)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="health", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(endpoints.start(host, port), loop).result(_START_S)
        yield endpoints.port
    finally:
        asyncio.run_coroutine_threadsafe(endpoints.stop(), loop).result(_START_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
