"""Attempts that do not end, whatever it is that hangs: noticed, and ended with the process that they hang in.

A thread cannot be ended from outside, a process can: its engines have guards that go with it, its pods are told to go by
the next sweep, and its trial is measured again elsewhere.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

# sysexits.h, EX_SOFTWARE: whoever started this process starts it again.
GAVE_UP = 70
_EVERY_S = 5.0


@dataclass(slots=True, eq=False)
class Watch:
    """What is under way in this process and until when it has to be over. Thread-safe."""

    now_s: Callable[[], float] = time.monotonic
    _under_way: dict[str, tuple[str, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, trial: str, what: str, within_s: float) -> None:
        """From now on this is what it has to do, and its time."""
        with self._lock:
            self._under_way[trial] = (what, self.now_s() + within_s)

    def hurry(self, trial: str, was: str, what: str, within_s: float) -> None:
        """It has something else to do now, unless it has come beyond what it was to do."""
        with self._lock:
            if self._under_way.get(trial, ("", 0.0))[0] == was:
                self._under_way[trial] = (what, self.now_s() + within_s)

    def over(self, trial: str) -> None:
        """It has ended."""
        with self._lock:
            self._under_way.pop(trial, None)

    def wrong(self) -> str | None:
        """The first that is late; None while all is well."""
        now_s = self.now_s()
        with self._lock:
            late = [(until_s, trial, what) for trial, (what, until_s) in self._under_way.items() if now_s > until_s]
        if not late:
            return None
        until_s, trial, what = min(late)
        return f"trial {trial} was to {what}, and is {now_s - until_s:.0f} s late"


def _leave(why: str) -> None:
    log.critical("%s: this process ends with all that it measures", why)
    os._exit(GAVE_UP)  # what hangs would hold up an orderly end, too


@contextmanager
def ended_when_late(
    watch: Watch, *, every_s: float = _EVERY_S, leave: Callable[[str], None] = _leave
) -> Iterator[None]:
    """While the block runs, end this process when something is late."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(every_s):
            why = watch.wrong()
            if why is not None:
                leave(why)
                return

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
