"""What a reflector knows about its own state, for /readyz, metrics and logs."""

from __future__ import annotations

from controlplane.kube import KubeError
from operators.runtime.clock import Clock


class ReflectorHealth:
    """Counters since start and ages from now. Ages are None while the thing has not happened."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watch_since_s: float | None = None
        self._heard_at_s: float | None = None
        self.lists_total = 0
        self.gone_total = 0
        self.watches_total = 0
        self.clean_ends_total = 0
        self.cuts_total = 0
        self.silent_total = 0
        self.events_total = 0
        self.undecodable_total = 0
        self.errors_total = 0
        self.last_error: str | None = None
        self.last_error_status: int | None = None

    @property
    def watch_age_s(self) -> float | None:
        """How long the current watch has been open."""
        return None if self._watch_since_s is None else self._clock.monotonic_s() - self._watch_since_s

    @property
    def silence_s(self) -> float | None:
        """How long ago the server last said anything: a list, an event or a bookmark."""
        return None if self._heard_at_s is None else self._clock.monotonic_s() - self._heard_at_s

    def listed(self) -> None:
        self.lists_total += 1
        self._heard_at_s = self._clock.monotonic_s()
        self._clear_error()

    def watching(self) -> None:
        self.watches_total += 1
        self._watch_since_s = self._clock.monotonic_s()
        self._clear_error()

    def heard(self) -> None:
        self._heard_at_s = self._clock.monotonic_s()

    def ended(self, *, cut: bool) -> None:
        if cut:
            self.cuts_total += 1
        else:
            self.clean_ends_total += 1

    def not_watching(self) -> None:
        self._watch_since_s = None

    def failed(self, error: Exception) -> None:
        self.errors_total += 1
        self.last_error = str(error)
        self.last_error_status = error.status if isinstance(error, KubeError) else None

    def _clear_error(self) -> None:
        self.last_error = None
        self.last_error_status = None
