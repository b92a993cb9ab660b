"""Which calibration the planner of this process plans with: looked at now and then, told in the log and in metrics.

The file comes from whoever measured (a mounted ConfigMap, as a rule) and changes while processes run. What is made of it
is decided by `tuner.serving.calibration.installed`, here and in the planner alike.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from controlplane.model.plans import CalibrationUsed
from tuner.serving.calibration.installed import installed

log = logging.getLogger(__name__)

# A kubelet brings a changed ConfigMap into a pod within about a minute: more often would find nothing sooner.
LOOK_EVERY_S = 10.0


class CalibrationWatch(Collector):
    """Knows which calibration is in use and tells when that changes. A collector of its own metrics, too."""

    def __init__(self, place: str | None) -> None:
        self._place = None if place is None else Path(place)
        self._readers: list[Callable[[], None]] = []
        self._seen: tuple[object, ...] | None = None
        self._used: CalibrationUsed | None = None

    @property
    def used(self) -> CalibrationUsed | None:
        """In use as of the last look; None before the first."""
        return self._used

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call it when another calibration is in use, or something is wrong with the installed one."""
        self._readers.append(changed)

    async def run(self, every_s: float = LOOK_EVERY_S) -> None:
        """Look now and then, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(every_s)

    async def look(self) -> None:
        """Read it if there is anything new; log and tell when another one is in use, or something is wrong with it."""
        seen = _signature(self._place)
        if self._used is not None and seen == self._seen:
            return
        used = (await asyncio.to_thread(installed, self._place)).used
        before, self._used, self._seen = self._used, used, seen
        if used == before:
            return
        if used.problem is not None:
            log.warning("calibration: %s", used.problem)
        log.info("plans are made with the %s calibration %s (%s)", used.source, used.name, used.digest)
        for reader in self._readers:
            reader()

    def collect(self) -> Iterator[Metric]:
        """Which one, and whether an installed one cannot be used."""
        info = InfoMetricFamily("trimtab_planner_calibration", "Calibration that plans are made with.")
        problem = GaugeMetricFamily(
            "trimtab_planner_calibration_unusable", "1 while an installed calibration cannot be used; see the log."
        )
        if self._used is not None:
            info.add_metric([], {name: getattr(self._used, name) for name in ("name", "digest", "source")})
            problem.add_metric([], float(self._used.problem is not None))
        yield info
        yield problem


def _signature(place: Path | None) -> tuple[object, ...]:
    """Changes with what is there. A folder's own time changes with its entries, a file's with its content."""
    if place is None:
        return ()
    found: list[object] = []
    try:
        for path in [place, *(sorted(place.iterdir()) if place.is_dir() else [])]:
            status = path.stat()
            found += [path.name, status.st_ino, status.st_mtime_ns, status.st_size]
    except OSError as error:
        found.append(error.errno)
    return tuple(found)
