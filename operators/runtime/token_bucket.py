"""A token bucket: so many at once, so many per second on average."""

from __future__ import annotations

from operators.runtime.clock import Clock


class TokenBucket:
    """At most `rate_per_s` on average and `burst` at once, over all keys."""

    def __init__(self, clock: Clock, rate_per_s: float, burst: float) -> None:
        if rate_per_s <= 0 or burst < 1:
            raise ValueError(f"rate_per_s={rate_per_s}, burst={burst}: must be positive, burst at least 1")
        self._clock = clock
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at_s = clock.monotonic_s()

    def reserve_s(self) -> float:
        """Take one token and say how long to wait for it; the balance may go below zero."""
        self._refill()
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate_per_s)

    def try_take(self) -> bool:
        """Take one token if there is one."""
        self._refill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _refill(self) -> None:
        now_s = self._clock.monotonic_s()
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate_per_s)
        self._at_s = now_s
