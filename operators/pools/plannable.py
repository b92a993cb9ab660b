"""Pools as a planner may use them: what each holds, what a node of it looks like, what it costs. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane.model.cluster import NodeFacts
from controlplane.model.plans import PlannablePool
from operators.pools.inventory import Inventory

MILLICORES_PER_CORE = 1000
_REVISION_DIGITS = 10


@dataclass(frozen=True, slots=True)
class PoolRoom:
    """One pool. `free_units` in accelerators, or millicores where `scale` is 1000; spares are left out. `closed`: nothing
    new is placed there now (suspended, blocked); what runs there goes on."""

    facts: PlannablePool
    free_units: int
    scale: int
    closed: bool = False
    largest_block_units: int | None = None  # on one node

    def with_held(self, held_units: int, held_block_units: int = 0) -> PlannablePool:
        """The pool for a plan that may also use what its own replicas hold now, the largest of their pods included."""
        free = max(0, self.free_units + held_units) // self.scale
        block = self.largest_block_units
        largest = None if block is None else max(block, held_block_units) // self.scale
        return self.facts.model_copy(update={"free": free, "largest_block": largest})


def plannable(inventory: Inventory) -> tuple[PoolRoom, ...]:
    """Pools with a known accelerator, by name: those that placement would use, and closed ones."""
    return tuple(room for name in inventory.fleet.pool_names() if (room := _room(inventory, name)) is not None)


def pools_revision(pools: Sequence[PlannablePool], engines: Sequence[str]) -> str:
    """Hash of everything but room: accelerators, nodes, NICs, prices, and the engines that can serve there."""
    facts = [pool.model_dump(mode="json", exclude={"free", "largest_block"}) for pool in pools]
    return _hash({"pools": facts, "engines": list(engines)})


def room_revision(pools: Sequence[PlannablePool]) -> str:
    """Hash of the free room."""
    return _hash({pool.name: [pool.free, pool.largest_block] for pool in pools})


def _room(inventory: Inventory, name: str) -> PoolRoom | None:
    supply, spec = inventory.fleet.supply(name), inventory.spec(name)
    if supply is None or spec is None or supply.accelerator is None:
        return None
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
    free, block = (0, 0) if closed else (totals.free, totals.largest_block)
    return PoolRoom(facts, free, scale, closed, block)


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
