"""After a start: whether every deployment had its first look, without which the room its plan counts on is not known."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from operators.runtime import Key

# First looks are over in a moment; a deployment that cannot be looked at keeps the others no longer than this.
WITHIN_S = 30.0


class FirstLooks:
    """`seeds`: the deployments that there are when the first one is looked at."""

    def __init__(self, seeds: Callable[[], Iterable[Key]]) -> None:
        self._seeds = seeds
        self._unseen: set[Key] | None = None  # None before the first look
        self._first_s = 0.0

    def seen(self, key: Key, now_s: float) -> None:
        """The deployment had its look: what its plan counts on is known, or it has none."""
        if self._unseen is None:
            self._unseen, self._first_s = set(self._seeds()), now_s
        self._unseen.discard(key)

    def outstanding(self, now_s: float) -> bool:
        """Whether a question now would be about room that others' plans may count on."""
        return bool(self._unseen) and now_s < self._first_s + WITHIN_S
