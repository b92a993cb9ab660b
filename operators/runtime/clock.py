"""Time as an argument: the real clock, and the protocol a test's virtual clock fulfils."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

# CLOCK_BOOTTIME also counts the time a machine was suspended: a lease does not stop for that. Linux only.
_LEASE_CLOCK_ID: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Timer(Protocol):
    """A pending `call_later`."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What the runtime asks of time. All durations in seconds."""

    def monotonic_s(self) -> float:
        """Never goes back; comparable only with itself; counts suspended time where the system can."""
        ...

    def utc_now(self) -> datetime:
        """Wall-clock time, for timestamps people read. Never used for a deadline."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer: ...

    async def sleep(self, delay_s: float) -> None: ...


class SystemClock:
    """The real thing."""

    def monotonic_s(self) -> float:
        return time.monotonic() if _LEASE_CLOCK_ID is None else time.clock_gettime(_LEASE_CLOCK_ID)

    def utc_now(self) -> datetime:
        return datetime.now(UTC)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


def rfc3339(moment: datetime) -> str:
    """`2026-01-31T12:00:00Z`, the form of `metav1.Time`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")[:-6] + "Z"


def rfc3339_micro(moment: datetime) -> str:
    """`2026-01-31T12:00:00.000000Z`, the form of `metav1.MicroTime` (leases, events)."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
