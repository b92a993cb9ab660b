"""Samples of many engines over time: who is scraped, how often, how much is kept.

Fetching is a port, so that this module needs no HTTP client and no network in its tests.
"""

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from telemetry.collectors.engine import BadMetricsPage, parse
from telemetry.window import Window

log = logging.getLogger(__name__)

# About 1 us a byte: a longer page is parsed beside the event loop, which would stand still for seconds at the limit.
_PARSED_AT_ONCE_BYTES = 32 * 1024

Fetch = Callable[[str], Awaitable[bytes]]
"""GET of a URL; raises OSError or TimeoutError when there is no answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """One engine pod and how to read it. `names` maps our series to the engine's."""

    namespace: str
    deployment: str
    pod: str
    url: str
    names: Mapping[str, str]

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.deployment}"


class EngineMetrics:
    """Windows of engine samples, one for each target of this process's share.

    At most `max_targets` windows of `capacity` rows are kept; targets beyond that are counted, not scraped. A scrape
    that fails leaves a gap row.
    """

    def __init__(self, fetch: Fetch, *, capacity: int = 720, max_targets: int = 512, concurrency: int = 16) -> None:
        self._fetch = fetch
        self._capacity = capacity
        self._max_targets = max_targets
        self._slots = asyncio.Semaphore(concurrency)
        self._windows: dict[tuple[str, str], tuple[Target, Window]] = {}
        self.scrapes_total = 0
        self.failures_total = 0
        self.targets_over_limit = 0

    def __len__(self) -> int:
        return len(self._windows)

    def retarget(self, targets: Iterable[Target]) -> None:
        """Scrape exactly these from now on; windows of targets that left are dropped."""
        wanted = {(target.key, target.pod): target for target in targets}
        for gone in [key for key in self._windows if key not in wanted]:
            del self._windows[gone]
        self.targets_over_limit = 0
        for key, target in wanted.items():
            held = self._windows.get(key)
            if held is not None:
                self._windows[key] = (target, held[1])
            elif len(self._windows) < self._max_targets:
                self._windows[key] = (target, Window(self._capacity))
            else:
                self.targets_over_limit += 1

    async def scrape(self, time_s: float) -> None:
        """One sample of every target, stamped `time_s`; returns when all have answered or failed."""
        await asyncio.gather(*(self._one(target, window, time_s) for target, window in self._windows.values()))

    def of(self, namespace: str, deployment: str) -> Mapping[str, Window]:
        """Pod name to window for one deployment."""
        key = f"{namespace}/{deployment}"
        return {target.pod: window for target, window in self._windows.values() if target.key == key}

    def document(self, namespace: str, deployment: str, since_s: float, now_s: float, pods: Collection[str]) -> bytes:
        """JSON of one deployment's windows over the last `since_s` seconds, in columns; null marks a gap.

        `pods` are all pods that answer for the deployment: those held elsewhere are named, not silently missing.
        """
        held = self.of(namespace, deployment)
        shown = {pod: _columns(window, now_s - since_s) for pod, window in sorted(held.items())}
        return json.dumps({"pods": shown, "notHeldHere": sorted(set(pods) - set(held))}).encode()

    async def _one(self, target: Target, window: Window, time_s: float) -> None:
        sample: dict[str, float] | None = None
        async with self._slots:
            self.scrapes_total += 1
            try:
                page = await self._fetch(target.url)
                if len(page) <= _PARSED_AT_ONCE_BYTES:
                    sample = parse(page, target.names)
                else:
                    sample = await asyncio.to_thread(parse, page, target.names)
            except (OSError, TimeoutError, BadMetricsPage) as error:
                self.failures_total += 1
                log.debug("no metrics from %s: %s", target.pod, error)
        window.append(time_s, sample)


def _columns(window: Window, since_s: float) -> dict[str, list[float | None]]:
    rows = window.since(since_s)
    columns: dict[str, list[float | None]] = {"timeS": [float(value) for value in rows.time_s]}
    for name, column in sorted(rows.columns.items()):
        columns[name] = [float(value) if math.isfinite(value) else None for value in column]  # JSON has no infinity
    return columns
