"""One pool as numpy arrays in node-name order, kept up to date one event at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from controlplane.model.cluster import NodeFacts, PoolToleration, TopologyLevel
from operators.placement.types import PoolSupply, PoolTotals
from operators.placement.usability import Usability, usability

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

UNKNOWN = -1
_USABLE = int(Usability.USABLE)


class PoolArrays:
    """Positions follow node names, so a stable sort breaks every tie by name.

    Membership changes rebuild the arrays at the next read (a pool of 2,000 nodes: milliseconds); everything else
    changes one position. `free` is 0 wherever nothing new may be placed.
    """

    def __init__(self, supply: PoolSupply) -> None:
        self.supply = supply
        self._nodes: dict[str, NodeFacts] = {}
        self._used: dict[str, tuple[int, bool]] = {}
        self._stale = True
        self.names: list[str] = []
        self.position: dict[str, int] = {}
        self.capacity: Ints = np.zeros(0, np.int64)
        self.used: Ints = np.zeros(0, np.int64)
        self.free: Ints = np.zeros(0, np.int64)
        self.occupied: Bools = np.zeros(0, np.bool_)
        self.state: Ints = np.zeros(0, np.int64)
        self.nic: Ints = np.zeros(0, np.int64)
        self.nic_count: Ints = np.zeros(0, np.int64)
        self._nic_ids: dict[str, int] = {}
        self._domain_ids: dict[str, dict[str, int]] = {}
        self._domains: dict[str, Ints] = {}
        self._splitting: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def node(self, name: str) -> NodeFacts | None:
        """Facts as last set."""
        return self._nodes.get(name)

    def nodes(self) -> Iterable[NodeFacts]:
        """Facts of all nodes, in no particular order."""
        return self._nodes.values()

    def set_supply(self, supply: PoolSupply) -> None:
        """Replace the pool's own facts; nodes are judged again when its tolerations change."""
        self._stale |= supply.tolerations != self.supply.tolerations
        self.supply = supply

    def set_node(self, node: NodeFacts) -> None:
        """Add a node or replace its facts."""
        known = self._nodes.get(node.name)
        self._nodes[node.name] = node
        if known is None or known.domains != node.domains:
            # Domain numbers follow node names, so that ties between domains do not depend on the order of events.
            self._stale = True
        elif not self._stale:
            self._write(self.position[node.name], node)

    def remove_node(self, name: str) -> None:
        """Forget a node; usage of it is forgotten too. Unknown names are ignored."""
        if self._nodes.pop(name, None) is not None:
            self._stale = True
            self._used.pop(name, None)

    def set_used(self, name: str, units: int, occupied: bool) -> None:
        """Units taken on a node and whether it counts as occupied (not empty)."""
        self._used[name] = (units, occupied)
        if not self._stale:
            position = self.position[name]
            self.used[position] = units
            self.occupied[position] = occupied
            self._refree(position)

    def refresh(self) -> None:
        """Bring the arrays up to date; called before every read."""
        if not self._stale:
            return
        self.names = sorted(self._nodes)
        self.position = {name: index for index, name in enumerate(self.names)}
        size = len(self.names)
        for field in ("capacity", "used", "free", "state", "nic", "nic_count"):
            setattr(self, field, np.zeros(size, np.int64))
        self.occupied = np.zeros(size, np.bool_)
        self._nic_ids.clear()
        self._domain_ids.clear()
        self._domains.clear()
        for index, name in enumerate(self.names):
            units, occupied = self._used.get(name, (0, False))
            self.used[index] = units
            self.occupied[index] = occupied
            node = self._nodes[name]
            self._write(index, node)
            for level, domain in node.domains.items():
                if level not in self._domains:
                    self._domain_ids[level] = {}
                    self._domains[level] = np.full(size, UNKNOWN, np.int64)
                self._domains[level][index] = self._number(self._domain_ids[level], domain)
        self._splitting = frozenset(level for level, values in self._domains.items() if len(np.unique(values)) > 1)
        self._stale = False

    def nic_id(self, nic_class: str) -> int:
        """Number of a NIC class in `nic`; UNKNOWN - 1 for one that no node has, so that it equals nothing."""
        return self._nic_ids.get(nic_class, UNKNOWN - 1)

    def levels(self) -> set[str]:
        """Topology levels that at least one node names."""
        return set(self._domain_ids)

    def splits(self, level: str) -> bool:
        """Whether a level tells nodes of this pool apart."""
        return level in self._splitting

    def domain(self, level: TopologyLevel) -> Ints:
        """Domain number of each node at a level, UNKNOWN where the node does not say."""
        if level == "host":
            return np.arange(len(self.names), dtype=np.int64)
        known = self._domains.get(level)
        return np.full(len(self.names), UNKNOWN, np.int64) if known is None else known

    def domain_names(self, level: TopologyLevel) -> list[str]:
        """Names by domain number."""
        return self.names if level == "host" else list(self._domain_ids.get(level, ()))

    def domain_id(self, level: TopologyLevel, name: str) -> int:
        """Number of a named domain; UNKNOWN - 1 when no node is in it."""
        table = self.position if level == "host" else self._domain_ids.get(level, {})
        return table.get(name, UNKNOWN - 1)

    def empties(self) -> Bools:
        """Usable nodes that hold nothing: the stock from which spares are kept."""
        empty: Bools = (self.state == _USABLE) & ~self.occupied & (self.capacity > 0)
        return empty

    def usable_with(self, tolerations: Sequence[PoolToleration]) -> Bools:
        """Nodes that take new pods, those included whose taints these further tolerations accept."""
        usable: Bools = self.state == _USABLE
        if tolerations:
            both = (*self.supply.tolerations, *tolerations)
            for index in np.flatnonzero(self.state == int(Usability.TAINTED)):
                usable[index] = usability(self._nodes[self.names[index]], both) is Usability.USABLE
        return usable

    def free_on(self, name: str) -> int:
        """Units free on one node, spare or not."""
        self.refresh()
        return int(self.free[self.position[name]])

    def totals(self) -> PoolTotals:
        """Sums for the pool's status."""
        self.refresh()
        free = self.free
        spares = np.flatnonzero(self.empties())
        spares = spares[np.argsort(self.capacity[spares], kind="stable")][: self.supply.spare_nodes]
        if len(spares):
            # Any empty node may serve as spare; the smallest are, so that the figures say what placement can reach.
            free = free.copy()
            free[spares] = 0
        counts = np.bincount(self.state, minlength=len(Usability))
        return PoolTotals(
            nodes=len(self.names),
            usable_nodes=int(counts[_USABLE]),
            quarantined_nodes=int(counts[int(Usability.QUARANTINED)]),
            spare_nodes=len(spares),
            capacity=int(self.capacity.sum()),
            used=int(self.used.sum()),
            free=int(free.sum()),
            largest_block=int(free.max(initial=0)),
            free_nodes=_by_amount(free),
            unusable={state.words: int(counts[state]) for state in Usability if state and counts[state]},
        )

    def _write(self, index: int, node: NodeFacts) -> None:
        self.capacity[index] = max(0, node.capacity)
        self.state[index] = int(usability(node, self.supply.tolerations))
        self.nic[index] = self._number(self._nic_ids, node.nic_class)
        self.nic_count[index] = UNKNOWN if node.nic_count is None else node.nic_count
        self._refree(index)

    def _refree(self, index: int) -> None:
        usable = self.state[index] == _USABLE
        self.free[index] = max(0, int(self.capacity[index] - self.used[index])) if usable else 0

    @staticmethod
    def _number(table: dict[str, int], name: str | None) -> int:
        return UNKNOWN if name is None else table.setdefault(name, len(table))


def _by_amount(free: Ints) -> tuple[tuple[int, int], ...]:
    amounts, nodes = np.unique(free[free > 0], return_counts=True)
    return tuple(zip(amounts[::-1].tolist(), nodes[::-1].tolist(), strict=True))
