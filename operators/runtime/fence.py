"""The fence: whether this process may write right now, checked right before every write."""

from __future__ import annotations

import threading

from operators.runtime.clock import Clock, SystemClock


class FenceLost(Exception):
    """We are not, or no longer provably, the leader. Ends the reconcile; it is tried again should the
    fence reopen, and else the next leader does the work."""


class Fence:
    """Open until a monotonic deadline that only a successful renewal moves.

    The deadline lies before the moment any other candidate may take the lease, whatever their wall clocks say, so
    two processes never pass at the same time. `check` compares two numbers: cheap enough for every request.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._deadline_s: float | None = None
        self._revoked = False
        self._lock = threading.Lock()  # the watchdog reads from its own thread

    @classmethod
    def always_open(cls) -> Fence:
        """For a single process without leader election."""
        fence = cls()
        fence.extend_to(float("inf"))
        return fence

    @property
    def remaining_s(self) -> float:
        """Seconds until the fence closes; 0 when it is closed."""
        with self._lock:
            if self._revoked or self._deadline_s is None:
                return 0.0
            return max(0.0, self._deadline_s - self._clock.monotonic_s())

    @property
    def is_open(self) -> bool:
        return self.remaining_s > 0

    def check(self) -> None:
        """Raises FenceLost when a write is not allowed."""
        if self.remaining_s <= 0:
            raise FenceLost("the lease is lost or could not be renewed in time; nothing more is written")

    def extend_to(self, deadline_s: float) -> None:
        """Open until `deadline_s` of the monotonic clock. A revoked fence stays closed for good."""
        with self._lock:
            self._deadline_s = deadline_s

    def revoke(self) -> None:
        """Close now and for ever: the lease went to somebody else, or is about to be given back."""
        with self._lock:
            self._revoked = True
