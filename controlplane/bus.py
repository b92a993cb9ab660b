"""The event bus of one process: a bounded log that subscribers follow at their own pace.

Ids are `<epoch>-<number>`. The epoch changes with the process, so an id of an earlier process is recognised as a gap
instead of being mistaken for a position in this log.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from controlplane.model.events import Change


@dataclass(frozen=True, slots=True)
class Entry:
    """A change at its position in the log."""

    number: int
    change: Change


class EventLog:
    """The last `capacity` changes. Publishing never blocks and never fails; a slow reader sees a gap, not a queue."""

    def __init__(self, capacity: int = 10_000, epoch: str | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: {capacity}; allowed: 1 or more")
        self.epoch: Final = epoch or secrets.token_hex(4)
        self._entries: deque[Entry] = deque(maxlen=capacity)
        self._last = 0
        self._arrived = asyncio.Event()

    @property
    def last(self) -> int:
        """Number of the newest change, 0 before the first."""
        return self._last

    def id_of(self, number: int) -> str:
        return f"{self.epoch}-{number}"

    def publish(self, change: Change) -> int:
        """Append a change and wake every reader. Returns its number."""
        self._last += 1
        self._entries.append(Entry(self._last, change))
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()
        return self._last

    def position(self, event_id: str) -> int | None:
        """The number an id stands for, or None when this log no longer (or never) held what follows it."""
        epoch, _, number = event_id.rpartition("-")
        if epoch != self.epoch or not number.isdecimal() or len(number) > 19:
            return None
        position = int(number)
        return position if self._holds_after(position) else None

    def after(self, number: int) -> Sequence[Entry] | None:
        """Every change after `number`, oldest first; None when some of them have already left the log."""
        if not self._holds_after(number):
            return None
        wanted = self._last - number
        if wanted == 0:
            return ()
        tail: list[Entry] = []
        for entry in reversed(self._entries):
            if entry.number <= number:
                break
            tail.append(entry)
        tail.reverse()
        return tail

    async def wait_beyond(self, number: int) -> None:
        """Return once a change after `number` has been published."""
        while self._last <= number:
            await self._arrived.wait()

    def _holds_after(self, number: int) -> bool:
        if number > self._last:
            return False
        oldest = self._entries[0].number if self._entries else self._last + 1
        return number >= oldest - 1
