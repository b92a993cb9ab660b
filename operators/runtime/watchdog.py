"""Ends the process when leadership is over and the event loop cannot be trusted to do it.

A leader whose loop is stuck (a long computation, a blocking call) cannot run the elector. The fence already stops
its writes; this thread makes room for a healthy successor.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from operators.runtime.fence import Fence

log = logging.getLogger(__name__)

LOST_LEASE_EXIT_CODE = 75  # EX_TEMPFAIL: restart me, nothing is wrong with the configuration
_LONGEST_NAP_S = 1.0


def exit_process(why: str) -> None:
    """Leave at once: no clean-up that could still write somewhere."""
    log.critical("exiting: %s", why)
    logging.shutdown()
    os._exit(LOST_LEASE_EXIT_CODE)


class FenceWatchdog:
    """Watches a fence from its own thread and calls `expired` once when it runs out while armed."""

    def __init__(self, fence: Fence, expired: Callable[[str], None] = exit_process) -> None:
        self._fence = fence
        self._expired = expired
        self._disarmed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fence-watchdog", daemon=True)

    def arm(self) -> None:
        """Start watching; call once, when leadership begins."""
        self._thread.start()

    def disarm(self) -> None:
        """Leadership ends in an orderly way."""
        self._disarmed.set()

    def _watch(self) -> None:
        while not self._disarmed.is_set():
            left_s = self._fence.remaining_s
            if left_s <= 0:
                self._expired("the lease ran out while this process was busy or frozen")
                return
            self._disarmed.wait(min(_LONGEST_NAP_S, left_s))
