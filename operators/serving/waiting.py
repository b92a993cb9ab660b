"""Deployments that wait for room, woken in order of priority and age when some may have appeared."""

from __future__ import annotations

from collections.abc import Callable

from operators.runtime import Clock, Key
from operators.runtime.clock import Timer

# A burst of freed nodes wakes the waiting once; with many waiting, less often. What waking costs was not measured.
_MIN_DELAY_S = 0.02
_DELAY_PER_KEY_S = 0.001
_MAX_DELAY_S = 2.0


class Waiting:
    """Call `room` when room may have appeared; `wake` is then called per waiting key, in order, a little later."""

    def __init__(self, wake: Callable[[Key], None], clock: Clock) -> None:
        self._wake = wake
        self._clock = clock
        self._ranks: dict[Key, tuple[int, float]] = {}
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, key: Key) -> bool:
        return key in self._ranks

    @property
    def due(self) -> bool:
        """Room appeared and the waiting have not been told yet: who comes anew must not overtake them."""
        return self._timer is not None

    def add(self, key: Key, rank: int, since_s: float) -> None:
        """`key` waits; lower rank first, then the older."""
        self._ranks[key] = (rank, since_s)

    def discard(self, key: Key) -> None:
        """`key` waits no longer."""
        self._ranks.pop(key, None)

    def room(self) -> None:
        """Room may have appeared."""
        if self._ranks and self._timer is None:
            delay_s = min(_MAX_DELAY_S, max(_MIN_DELAY_S, len(self._ranks) * _DELAY_PER_KEY_S))
            self._timer = self._clock.call_later(delay_s, self.flush)

    def flush(self) -> None:
        """Wake everybody now, first those who come first."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for key in sorted(self._ranks, key=lambda key: self._ranks[key]):
            self._wake(key)
