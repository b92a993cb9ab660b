"""What we have written but not yet seen in the cache, as the ReplicaSet controller keeps it.

A controller that creates three pods and reconciles again before the watch shows them would create three more. So it
notes what it did before it does it, the informer's handler strikes it off, and until all is struck off (or the
time-out has passed: an event can be lost with a relist) the controller does not count its children.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from operators.runtime.clock import Clock, SystemClock
from operators.runtime.objects import Key

# The ReplicaSet controller's ExpectationsTimeout (pkg/controller/controller_utils.go).
TIMEOUT_S = 300.0


@dataclass(slots=True)
class _Pending:
    created: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    since_s: float = 0.0


class Expectations:
    """Per controller key: names of children being created, uids of children being deleted."""

    def __init__(self, clock: Clock | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._clock: Clock = clock or SystemClock()
        self._timeout_s = timeout_s
        self._pending: dict[Key, _Pending] = {}

    def expect_created(self, key: Key, names: Iterable[str]) -> None:
        """Call before the create requests; names of the children (`namespace/name` or `name`, as you observe)."""
        self._entry(key).created.update(names)

    def expect_deleted(self, key: Key, uids: Iterable[str]) -> None:
        """Call before the delete requests; uids, because a successor may carry the same name."""
        self._entry(key).deleted.update(uids)

    def created(self, key: Key, name: str) -> None:
        """The child was seen, or its creation failed for good."""
        self._strike(key, name, None)

    def deleted(self, key: Key, uid: str) -> None:
        """The child is gone or terminating, or its deletion failed for good."""
        self._strike(key, None, uid)

    def satisfied(self, key: Key) -> bool:
        """Whether the cache can be trusted for this key: all seen, or given up after the time-out."""
        entry = self._pending.get(key)
        if entry is None:
            return True
        if self._clock.monotonic_s() - entry.since_s >= self._timeout_s:
            del self._pending[key]
            return True
        return False

    def remaining_s(self, key: Key) -> float:
        """When to look again if no event comes: the time left until `satisfied` gives up; 0 when satisfied."""
        entry = self._pending.get(key)
        if entry is None:
            return 0.0
        return max(0.0, self._timeout_s - (self._clock.monotonic_s() - entry.since_s))

    def pending(self, key: Key) -> tuple[frozenset[str], frozenset[str]]:
        """(names still to appear, uids still to go)."""
        entry = self._pending.get(key)
        return (frozenset(), frozenset()) if entry is None else (frozenset(entry.created), frozenset(entry.deleted))

    def forget(self, key: Key) -> None:
        """The owner itself is gone."""
        self._pending.pop(key, None)

    def _entry(self, key: Key) -> _Pending:
        entry = self._pending.setdefault(key, _Pending())
        entry.since_s = self._clock.monotonic_s()
        return entry

    def _strike(self, key: Key, name: str | None, uid: str | None) -> None:
        entry = self._pending.get(key)
        if entry is None:
            return
        if name is not None:
            entry.created.discard(name)
        if uid is not None:
            entry.deleted.discard(uid)
        if not entry.created and not entry.deleted:
            del self._pending[key]
