"""May anything new be placed on a node? One answer per node, the strongest cause first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum

from controlplane.model.cluster import NodeFacts, PoolToleration, Taint

_HARD_EFFECTS = frozenset({"NoSchedule", "NoExecute"})


class Usability(IntEnum):
    """Why a node takes nothing new; USABLE when it does."""

    USABLE = 0
    QUARANTINED = 1
    NOT_READY = 2
    UNHEALTHY = 3
    CORDONED = 4
    TAINTED = 5
    NO_DEVICES = 6

    @property
    def words(self) -> str:
        """For messages and status."""
        return self.name.lower().replace("_", " ")


def usability(node: NodeFacts, tolerations: Sequence[PoolToleration]) -> Usability:
    """The node under the tolerations of its pool. A pool cannot tolerate a quarantine, so that cause comes first."""
    if node.quarantined:
        return Usability.QUARANTINED
    if not node.ready:
        return Usability.NOT_READY
    if node.unhealthy is not None:
        return Usability.UNHEALTHY
    if node.cordoned:
        return Usability.CORDONED
    if node.taints and next(untolerated(node.taints, tolerations), None) is not None:
        return Usability.TAINTED
    return Usability.NO_DEVICES if node.capacity <= 0 else Usability.USABLE


def untolerated(taints: Iterable[Taint], tolerations: Sequence[PoolToleration]) -> Iterator[Taint]:
    """Taints that keep pods away. PreferNoSchedule is a wish of the scheduler's, not a rule."""
    return (
        taint
        for taint in taints
        if taint.effect in _HARD_EFFECTS and not any(_tolerates(item, taint) for item in tolerations)
    )


def _tolerates(toleration: PoolToleration, taint: Taint) -> bool:
    return (
        toleration.key == taint.key
        and toleration.value in (None, taint.value)
        and toleration.effect in (None, taint.effect)
    )
