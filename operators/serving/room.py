"""The inventory as a decision sees it: ask, hold, and give back what was not used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from controlplane.model.cluster import GPUPoolSpec, PoolToleration, TopologyLevel
from operators.placement import Fleet, GangRequest, Placement, Refusal

# A pod that was created shows in the cache within seconds; longer means its create failed in an unknown way.
RESERVATION_S = 60.0


class Supply(Protocol):
    """What this room needs of the pools' inventory."""

    fleet: Fleet
    revision: int

    def reserve(self, key: str, node: str, units: int, expires_at_s: float) -> None: ...

    def release(self, key: str) -> None: ...

    def spec(self, pool: str) -> GPUPoolSpec | None: ...


class Room:
    """One decision's view. Reservations count for every later question, its own and others'."""

    def __init__(self, supply: Supply, now_s: float) -> None:
        self._supply = supply
        self._until_s = now_s + RESERVATION_S

    def place(self, request: GangRequest) -> Placement | Refusal:
        """Where a gang would go now."""
        return self._supply.fleet.place(request)

    def hold(self, pod_key: str, node: str, units: int) -> None:
        """Reserve until the pod is seen."""
        self._supply.reserve(pod_key, node, units, self._until_s)

    def tolerations(self, pool: str) -> Sequence[PoolToleration]:
        """Taints that the pool's nodes carry on purpose."""
        spec = self._supply.spec(pool)
        return () if spec is None else spec.tolerations

    def domain_of(self, node: str, level: TopologyLevel) -> str | None:
        """The node's domain at a level, if known."""
        return self._supply.fleet.domain_of(node, level)
