"""Samples of many engines over time: who is scraped, how often, how much is kept.

Fetching is a port, so that this module needs no HTTP client and no network in its tests.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, zip_longest

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

    At most `max_targets` windows of `capacity` rows and `max_bytes` of samples are kept. Namespaces share both fairly:
    no tenant's pods can push out another's. What is beyond is counted, not scraped or not kept. A scrape that fails, or
    whose turn does not come within `round_s` seconds, leaves a gap row. `now` is Unix time, seconds.
    """

    def __init__(
        self,
        fetch: Fetch,
        *,
        now: Callable[[], float] = time.time,
        capacity: int = 720,
        max_targets: int = 512,
        max_bytes: int = 128 << 20,
        concurrency: int = 16,
        round_s: float = 15.0,
    ) -> None:
        self._fetch = fetch
        self._now = now
        self._capacity = capacity
        self._max_targets = max_targets
        self._max_bytes = max_bytes
        self._round_s = round_s
        self._slots = asyncio.Semaphore(concurrency)
        self._windows: dict[tuple[str, str], tuple[Target, Window]] = {}
        self._used_bytes: Counter[str] = Counter()
        self.scrapes_total = 0
        self.failures_total = 0
        self.dropped_values_total = 0
        self.targets_over_limit = 0

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def nbytes(self) -> int:
        """Bytes held by all windows."""
        return self._used_bytes.total()

    def retarget(self, targets: Iterable[Target]) -> None:
        """Scrape exactly these from now on, as far as the limits go; windows of targets that left are dropped."""
        wanted = {(target.key, target.pod): target for target in targets}
        held = self._windows
        self._windows = {}
        for target in islice(_in_turn(wanted.values()), self._max_targets):
            key = (target.key, target.pod)
            window = held[key][1] if key in held else Window(self._capacity)
            self._windows[key] = (target, window)
        self.targets_over_limit = len(wanted) - len(self._windows)
        self._count_bytes()
        while self.nbytes > self._max_bytes - self._reserve_bytes and self._restart_one():
            self._count_bytes()

    async def scrape(self) -> None:
        """One sample of every target, each stamped with the time of its own fetch; returns when all are through."""
        ends_s = asyncio.get_running_loop().time() + self._round_s
        held = list(self._windows.values())
        in_order = await asyncio.gather(*(self._one(target, window, ends_s) for target, window in held))
        if not all(in_order):
            log.warning("engine metrics: %d rows left out: the clock stepped back", in_order.count(False))

    def of(self, namespace: str, deployment: str) -> Mapping[str, Window]:
        """Pod name to window for one deployment."""
        key = f"{namespace}/{deployment}"
        return {target.pod: window for target, window in self._windows.values() if target.key == key}

    async def _one(self, target: Target, window: Window, ends_s: float) -> bool:
        """Whether the row could be kept: rows out of order would falsify rates."""
        sample: dict[str, float] | None = None
        async with self._slots:
            time_s = self._now()
            self.scrapes_total += 1
            try:
                if asyncio.get_running_loop().time() >= ends_s:
                    raise TimeoutError("its turn came too late: other engines are slow")
                page = await self._fetch(target.url)
                if len(page) <= _PARSED_AT_ONCE_BYTES:
                    sample = parse(page, target.names)
                else:
                    sample = await asyncio.to_thread(parse, page, target.names)
            except Exception as error:  # whatever one engine sends, the others are scraped
                self.failures_total += 1
                expected = isinstance(error, OSError | BadMetricsPage)
                log.log(logging.DEBUG if expected else logging.WARNING, "no metrics from %s: %r", target.pod, error)
        before, dropped = window.nbytes, window.dropped_columns
        try:
            window.append(time_s, sample, self._room_bytes(target.namespace))
        except ValueError:
            return False
        self._used_bytes[target.namespace] += window.nbytes - before
        self.dropped_values_total += window.dropped_columns - dropped
        return True

    @property
    def _reserve_bytes(self) -> int:
        """Kept free for namespaces that hold less than their share."""
        return self._max_bytes // 8

    def _share_bytes(self) -> int:
        return self._max_bytes // max(1, len(self._used_bytes))

    def _room_bytes(self, namespace: str) -> int:
        """How much more the namespace may hold now: its share, or more while nobody else needs it."""
        free = self._max_bytes - self.nbytes
        within_share = self._share_bytes() - self._used_bytes[namespace]
        return max(0, min(free, within_share), free - self._reserve_bytes)

    def _restart_one(self) -> bool:
        """Empty the last window of the namespace that holds the most, if that is over its share and would help."""
        greediest = max(self._used_bytes, key=lambda namespace: (self._used_bytes[namespace], namespace))
        if self._used_bytes[greediest] <= self._share_bytes():
            return False
        for key, (target, window) in reversed(self._windows.items()):
            if target.namespace == greediest and window.columns:
                self._windows[key] = (target, Window(self._capacity))
                return True
        return False

    def _count_bytes(self) -> None:
        self._used_bytes = Counter()
        for target, window in self._windows.values():
            self._used_bytes[target.namespace] += window.nbytes


def _in_turn(targets: Iterable[Target]) -> Iterator[Target]:
    """One target of each namespace, then the second of each, and so on: a cut anywhere is fair to all."""
    namespaces: dict[str, list[Target]] = {}
    for target in sorted(targets, key=lambda target: (target.namespace, target.deployment, target.pod)):
        namespaces.setdefault(target.namespace, []).append(target)
    for turn in zip_longest(*namespaces.values()):
        yield from (target for target in turn if target is not None)
