"""The store's time. Leases of many machines end by one clock, that of the database they are kept in.

A worker whose clock is ten minutes ahead would take trials that others measure, one whose clock is behind would renew
leases into the past and leave dead ones alone. A file's only clock is that of its machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from controlplane.model.errors import TrimtabError

# Quartz drifts by less than 0.1 ms/s, leases last for seconds: between two looks at the server this process counts itself.
_LOOK_EVERY_S = 30.0


def _wall() -> datetime:
    return datetime.now(UTC)


def machine_time() -> datetime:
    """What the clock of this machine says."""
    return _wall()


class ServerClock:
    """The server's time without asking it each time. Thread-safe."""

    def __init__(self, ask: Callable[[], datetime], counted_s: Callable[[], float] | None = None) -> None:
        """`ask` reads the server's clock. `counted_s`: seconds that nobody sets, sleep included."""
        self._ask = ask
        self._counted_s = counted_s or (lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
        self._seen: tuple[datetime, float] | None = None
        self._looked_s = float("-inf")

    def __call__(self) -> datetime:
        """Raises what the database raises while its clock was never seen; later its absence makes no difference."""
        now_s = self._counted_s()
        if now_s - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now_s  # whoever comes meanwhile does without
            self._look()
        if self._seen is None:
            self._look()
        assert self._seen is not None
        at, at_s = self._seen
        return at + timedelta(seconds=self._counted_s() - at_s)

    def _look(self) -> None:
        began_s = self._counted_s()
        try:
            at = self._ask()
        except TrimtabError:
            if self._seen is None:
                raise
            return
        self._seen = (at, (began_s + self._counted_s()) / 2)
