"""How many replicas are made and which go: scaling, surge and the promise of ready replicas. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from controlplane.model.serving import Rollout
from operators.serving.replicas import Replica, trouble
from operators.serving.shares import Place
from operators.serving.snapshot import PlanSettings


@dataclass(frozen=True, slots=True)
class Stock:
    """Replicas that stay, broken ones taken out. `current`: rendered by a choice of today. `old`: all others."""

    current: tuple[Replica, ...]
    old: tuple[Replica, ...]
    desired: int
    moving: bool = False  # one replica more than desired, until the one on a better choice is ready
    places: Mapping[Place, int] = field(default_factory=dict)  # how good each replica's place is, 0 the best

    @property
    def ready(self) -> int:
        """Replicas whose engine answers."""
        return sum(replica.ready for replica in (*self.current, *self.old))


def to_create(stock: Stock, rollout: Rollout) -> int:
    """Replicas of the current revisions to make now: up to the surge while old ones exist, else up to desired."""
    surge = rollout.max_surge if stock.old else 0
    room = stock.desired + surge - len(stock.current) - len(stock.old)
    return max(0, min(stock.desired - len(stock.current), room))


def to_leave(
    stock: Stock, rollout: Rollout, settings: PlanSettings, now_s: float, *, dip: bool
) -> list[tuple[Replica, str]]:
    """Replicas to drain now, with why, never more ready ones than the promise allows.

    Not-ready ones go first: of the old revision when they never answered or have not for `unready_grace_s`; of the
    current one when there are more than wanted. `dip`: a ready old replica may go before its successor is ready, down
    to desired - maxUnavailable; without it, successors come first.
    """
    leaving: list[tuple[Replica, str]] = []
    promised = max(0, stock.desired - (rollout.max_unavailable if dip else 0))
    spare = max(0, stock.ready - promised)
    for replica in sorted(stock.old, key=_least_useful):
        if not replica.ready:
            if trouble(replica) is not None or now_s - replica.unready_since_s >= settings.unready_grace_s:
                leaving.append((replica, "an older revision that does not answer"))
        elif spare > 0:
            spare -= 1
            leaving.append((replica, "replaced by the current revision"))
    surplus = len(stock.current) - stock.desired - (1 if stock.moving else 0)
    worst_first = sorted(stock.current, key=lambda replica: _least_useful(replica, stock.places))
    for replica in worst_first[: max(0, surplus)]:
        if replica.ready:
            if spare <= 0:
                break
            spare -= 1
        leaving.append((replica, "more replicas than wanted"))
    return leaving


def moving(current: Sequence[Replica], desired: int, places: Mapping[Place, int]) -> bool:
    """Whether a replica on a better choice is still starting, to take the place of a worse one that answers."""
    if len(current) <= desired:
        return False
    starting = [_place(replica, places) for replica in current if not replica.ready]
    answering = [_place(replica, places) for replica in current if replica.ready]
    return bool(starting and answering) and min(starting) < max(answering)


def _least_useful(replica: Replica, places: Mapping[Place, int] = MappingProxyType({})) -> tuple[bool, int, int, int]:
    """Sorts what goes first to the front: not ready, worse place, newest, highest slot."""
    return (replica.ready, -_place(replica, places), -replica.created_s, -replica.slot)


def _place(replica: Replica, places: Mapping[Place, int]) -> int:
    return places.get((replica.revision, replica.slot), replica.choice)
