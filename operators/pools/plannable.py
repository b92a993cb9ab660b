"""Pools as a planner may use them: what each holds, what a node of it looks like, what it costs. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.model.blocks import take
from controlplane.model.cluster import NodeFacts
from controlplane.model.plans import PlannablePool
from controlplane.model.resource import is_dns_label
from operators.pools.free_nodes import free_nodes
from operators.pools.inventory import Inventory

MILLICORES_PER_CORE = 1000
_REVISION_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Pods:
    """Equal pods of `units` each. `node`: where they are, if known."""

    units: int
    count: int = 1
    node: str | None = None


def _nothing_free(_node: str) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class PoolRoom:
    """One pool. `free_units` in accelerators, or millicores where `scale` is 1000; spares are left out. `closed`: nothing
    new is placed there now (suspended, blocked); what runs there goes on. `free_nodes`: (units free on a node, how many
    such nodes), None where the nodes are not known; `free_on` tells of one."""

    facts: PlannablePool
    free_units: int
    scale: int
    closed: bool = False
    free_nodes: tuple[tuple[int, int], ...] | None = None
    free_on: Callable[[str], int] = field(default=_nothing_free, compare=False)

    def with_held(self, held: Sequence[Pods] = (), claims: Sequence[Pods] = ()) -> PlannablePool:
        """The pool for a plan that may also use what its own replicas hold now, without what others' plans will take."""
        total = self.free_units + sum(pods.units * pods.count for pods in held)
        if self.free_nodes is None:
            total -= sum(pods.units * pods.count for pods in claims)
            return self.facts.model_copy(update={"free": max(0, total) // self.scale})
        free = Counter(dict(self.free_nodes))
        by_node: Counter[str] = Counter()
        for pods in held:
            if pods.node is None:
                free[pods.units] += pods.count
            else:
                by_node[pods.node] += pods.units * pods.count
        for node, units in by_node.items():
            now = self.free_on(node)
            free[now] -= 1 if free[now] else 0
            free[now + units] += 1
        for pods in sorted(claims, key=lambda pods: -pods.units):
            # A claim that finds no node cannot be placed, so nobody need keep clear of it.
            total -= pods.units * (pods.count - take(free, pods.units, pods.count))
        told = free_nodes(free, self.scale)
        return self.facts.model_copy(update={"free": max(0, total) // self.scale, "free_nodes": told})


def plannable(inventory: Inventory) -> tuple[PoolRoom, ...]:
    """Pools with a known accelerator, by name: those that placement would use, and closed ones."""
    return tuple(room for name in inventory.fleet.pool_names() if (room := _room(inventory, name)) is not None)


def pools_revision(pools: Sequence[PlannablePool], engines: Sequence[str]) -> str:
    """Hash of everything but room: accelerators, nodes, NICs, prices, and the engines that can serve there."""
    facts = [pool.model_dump(mode="json", exclude={"free", "largest_block", "free_nodes"}) for pool in pools]
    return _hash({"pools": facts, "engines": list(engines)})


def room_revision(pools: Sequence[PlannablePool]) -> str:
    """Hash of the free room."""
    return _hash({pool.name: [pool.free, *_by_node(pool)] for pool in pools})


def _by_node(pool: PlannablePool) -> list[list[int]]:
    return [[item.free, item.nodes] for item in pool.free_nodes or ()]


def _room(inventory: Inventory, name: str) -> PoolRoom | None:
    supply, spec = inventory.fleet.supply(name), inventory.spec(name)
    if supply is None or spec is None or supply.accelerator is None or not is_dns_label(name):
        return None  # a choice cannot name a pool whose name is no label
    closed = supply.suspended or supply.blocked is not None
    scale = MILLICORES_PER_CORE if inventory.counts_cpu(name) else 1
    nodes = inventory.facts(name)
    facts = PlannablePool(
        name=name,
        accelerator=supply.accelerator,
        free=0,
        per_node=_per_node(nodes, scale),
        nic=_agreed(nodes),
        nics_per_node=min((node.nic_count for node in nodes if node.nic_count is not None), default=None),
        price_per_accelerator_hour=None if spec.price is None else spec.price.amount_per_accelerator_hour,
        currency="USD" if spec.price is None else spec.price.currency,
    )
    totals = inventory.fleet.totals(name)
    free, nodes_free = (0, ()) if closed else (totals.free, totals.free_nodes)
    return PoolRoom(facts, free, scale, closed, nodes_free, _nothing_free if closed else inventory.fleet.free_on)


def _per_node(nodes: Sequence[NodeFacts], scale: int) -> int | None:
    """What most nodes carry; the larger of two equally common sizes."""
    sizes = Counter(node.capacity // scale for node in nodes if node.capacity >= scale)
    return max(sizes, key=lambda size: (sizes[size], size), default=None)


def _agreed(nodes: Sequence[NodeFacts]) -> str | None:
    """The NIC class where all nodes have the same; None where they differ or one is unknown."""
    classes = {node.nic_class for node in nodes}
    return classes.pop() if len(classes) == 1 else None


def _hash(value: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_REVISION_DIGITS]
