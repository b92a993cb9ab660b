"""What placement is asked and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from controlplane.model.cluster import PoolToleration, TopologyLevel
from controlplane.model.errors import InvalidSpec
from operators.placement.reasons import ORDER, Reason

_UNITS_MAX = 2**40
_PODS_MAX = 65_536


@dataclass(frozen=True, slots=True)
class TopologyNeed:
    """All pods of the gang inside one domain of a level.

    `domain` pins one domain by name: the replacement of one pod of a running gang must join its peers.
    """

    level: TopologyLevel
    mode: Literal["required", "preferred"] = "required"
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class GangRequest:
    """Pods that are placed together or not at all.

    `units_per_pod`: accelerators on one node (millicores for a CPU accelerator). `pools`: only these, in this order;
    every pool of the accelerator, by name, when empty. `avoid_nodes`: never these. `peer_nodes`: pods of the same
    deployment that each node already runs; `Spread` prefers nodes with fewer, `Pack` ignores them. `tolerations`: in
    addition to those of the pool. Raises InvalidSpec when a number is out of range.
    """

    accelerator: str
    pods: int = 1
    units_per_pod: int = 1
    pools: tuple[str, ...] = ()
    nic_class: str | None = None
    nic_min_per_node: int | None = None
    topology: TopologyNeed | None = None
    spread: Literal["Pack", "Spread"] = "Pack"
    avoid_nodes: frozenset[str] = frozenset()
    peer_nodes: Mapping[str, int] = field(default_factory=dict)
    tolerations: tuple[PoolToleration, ...] = ()

    def __post_init__(self) -> None:
        for name, value, limit in (("pods", self.pods, _PODS_MAX), ("units_per_pod", self.units_per_pod, _UNITS_MAX)):
            if not 1 <= value <= limit:
                raise InvalidSpec("out of range", field=name, value=value, limit=f"1 to {limit}")

    @property
    def units(self) -> int:
        """Units of the whole gang."""
        return self.pods * self.units_per_pod


@dataclass(frozen=True, slots=True)
class PoolVerdict:
    """Why one pool could not take the gang.

    `needed`: units of the gang. `free`: units free on the nodes that met every earlier constraint (all units, free or
    not, where the pool as such is too small). `largest_block`: most of these on one node; for TopologyPlacementFailed
    the most units that the gang could take in one domain. `fits`: pods that would fit. `pool` is None when no pool at
    all was in question.
    """

    pool: str | None
    reason: Reason
    message: str
    needed: int
    free: int | None = None
    largest_block: int | None = None
    fits: int = 0
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each pod goes: `nodes[rank]`. `passed_over`: pools that come first in the order and could not take it.

    `domain` is the single domain that all pods share at the requested level (at the best known level when none was
    requested), or None. `opened_nodes`: nodes that were empty before. `leftover_units`: free units that remain on the
    nodes it touches.
    """

    pool: str
    accelerator: str
    nodes: tuple[str, ...]
    units_per_pod: int
    domain: str | None = None
    topology_met: bool = True
    opened_nodes: int = 0
    leftover_units: int = 0
    passed_over: tuple[PoolVerdict, ...] = ()

    @property
    def units_by_node(self) -> dict[str, int]:
        """Units taken from each node."""
        taken: dict[str, int] = {}
        for node in self.nodes:
            taken[node] = taken.get(node, 0) + self.units_per_pod
        return taken


@dataclass(frozen=True, slots=True)
class Refusal:
    """No pool can take the gang now. `verdicts` has one entry per pool in question, never none."""

    verdicts: tuple[PoolVerdict, ...]

    @property
    def dominant(self) -> PoolVerdict:
        """The verdict nearest to success: the latest constraint, then the most pods that fit, then pool order."""
        return max(self.verdicts, key=lambda verdict: (ORDER[verdict.reason], verdict.fits))

    @property
    def reason(self) -> Reason:
        """The one word for the object's condition."""
        return self.dominant.reason

    @property
    def message(self) -> str:
        """The dominant verdict for a person: numbers and the way out."""
        verdict = self.dominant
        where = f"pool {verdict.pool}: " if verdict.pool else ""
        return f"{where}{verdict.message}" + (f"; {verdict.fix}" if verdict.fix else "")


@dataclass(frozen=True, slots=True)
class PoolSupply:
    """A pool as placement sees it. `blocked`: (reason, message) when the pool itself is not usable."""

    name: str
    accelerator: str | None
    suspended: bool = False
    spare_nodes: int = 0
    tolerations: tuple[PoolToleration, ...] = ()
    blocked: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class PoolTotals:
    """Sums over a pool, in units. `free`, `largest_block` and `free_nodes` (units free on a node, how many such nodes; most
    first) leave out the nodes kept as spares."""

    nodes: int = 0
    usable_nodes: int = 0
    quarantined_nodes: int = 0
    spare_nodes: int = 0
    capacity: int = 0
    used: int = 0
    free: int = 0
    largest_block: int = 0
    free_nodes: tuple[tuple[int, int], ...] = ()
    unusable: Mapping[str, int] = field(default_factory=dict)
