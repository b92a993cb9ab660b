"""Pools, their nodes and what is free on them, kept up to date event by event and mirrored into a `Fleet`.

Feed it from informers: `set_pool`, `set_node`, `set_slice`, `set_pod` and their `remove_` halves, in any order.
News of a pod is O(1), of a node one look at every selector, of a selector one look at every node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from controlplane.catalog import Catalog
from controlplane.model.cluster import GPUPoolSpec, LabelExpression, NodeFacts
from operators.placement import Fleet, PoolSupply
from operators.pools.facts import node_facts
from operators.pools.lookup import Lookup
from operators.pools.rows import NodeView, SliceView
from operators.pools.selectors import matches, nearest_miss, requirements
from operators.pools.usage import CPU, Usage
from operators.workloads.podview import PodView

_NAMES_SHOWN = 5

Listener = Callable[[str], None]
"""Hears the name of a pool that changed in any way. Runs inside the event: only note it."""


@dataclass(slots=True)
class _Pool:
    spec: GPUPoolSpec
    required: tuple[LabelExpression, ...]
    nodes: set[str] = field(default_factory=set)
    accelerators: Counter[str] = field(default_factory=Counter)
    overlaps: dict[str, str] = field(default_factory=dict)  # node -> the pool that counts it
    facts_version: int = 0


class Inventory:
    """What the cluster's pools hold. Not thread-safe: the event loop owns it."""

    def __init__(self, catalog: Catalog) -> None:
        self.fleet = Fleet()
        self.revision = 0
        """Grows when room may have appeared: a refused gang is worth another try once it has."""
        self._lookup = Lookup(catalog)
        self._pools: dict[str, _Pool] = {}
        self._nodes: dict[str, NodeView] = {}
        self._facts: dict[str, NodeFacts] = {}
        self._slices: dict[str, dict[str, SliceView]] = {}
        self._slice_node: dict[str, str] = {}
        self._listeners: list[Listener] = []
        self._usage = Usage(self._resource_of, self._usage_changed)

    def subscribe(self, listener: Listener) -> None:
        """Be told which pool changed."""
        self._listeners.append(listener)

    # ---- pools

    def set_pool(self, name: str, spec: GPUPoolSpec) -> None:
        """A pool was added or its spec changed."""
        known = self._pools.get(name)
        if known is not None and known.spec == spec:
            return
        required = requirements(spec.node_selector)
        pool = self._pools[name] = known or _Pool(spec, required)
        same_nodes = known is not None and known.required == required
        pool.spec, pool.required = spec, required
        self._supply(name)
        for node in [self._nodes[name] for name in pool.nodes] if same_nodes else list(self._nodes.values()):
            # Who neither was nor is selected has nothing to do with this pool: fifty pools need not be asked about it.
            if node.name in pool.nodes or node.name in pool.overlaps or matches(required, dict(node.labels)):
                self._assign(node)
        self._changed(name, room=True)

    def remove_pool(self, name: str) -> None:
        """A pool is gone; its nodes go to the next pool that selects them."""
        pool = self._pools.pop(name, None)
        if pool is None:
            return
        self.fleet.remove_pool(name)
        for node in pool.nodes:
            self._facts.pop(node, None)
        for node in sorted(pool.nodes):
            self._assign(self._nodes[node])
        self._changed(name, room=True)

    # ---- nodes and slices

    def set_node(self, node: NodeView) -> None:
        """A node was added or changed; a heartbeat without news costs one comparison."""
        known = self._nodes.get(node.name)
        self._nodes[node.name] = node
        if known is None or not known.same_facts(node):
            self._assign(node)

    def remove_node(self, name: str) -> None:
        """A node is gone. Pods that the cache still shows on it hold again should it come back."""
        if self._nodes.pop(name, None) is None:
            return
        for pool in self._pools.values():
            pool.overlaps.pop(name, None)
        self._leave(name)
        self.fleet.remove_node(name)

    def set_slice(self, item: SliceView) -> None:
        """A ResourceSlice was added or changed; those that belong to no single node are left out."""
        before = self._slice_node.get(item.name)
        if before is not None and before != item.node_name:
            self.remove_slice(item.name)
        if item.node_name is not None:
            self._slice_node[item.name] = item.node_name
            self._slices.setdefault(item.node_name, {})[item.name] = item
            self._refresh(item.node_name)

    def remove_slice(self, name: str) -> None:
        """A ResourceSlice is gone."""
        node = self._slice_node.pop(name, None)
        if node is not None:
            self._slices[node].pop(name, None)
            if not self._slices[node]:
                del self._slices[node]
            self._refresh(node)

    # ---- deployments, their pods and reservations

    def set_owner(self, namespace: str, uid: str) -> None:
        """A deployment exists: pods that it controls are ours. Before or after its pods."""
        self._usage.set_owner(namespace, uid)

    def remove_owner(self, namespace: str, uid: str) -> None:
        """A deployment is gone; see `Usage.remove_owner`."""
        self._usage.remove_owner(namespace, uid)

    def set_pod(self, pod: PodView) -> None:
        """A pod was added or changed."""
        self._usage.set_pod(pod)

    def remove_pod(self, pod: PodView) -> None:
        """A pod is gone."""
        self._usage.remove_pod(pod)

    def reserve(self, key: str, node: str, units: int, expires_at_s: float) -> None:
        """Hold units for the pod `namespace/name` that is about to be created; see `Usage.reserve`."""
        self._usage.reserve(key, node, units, expires_at_s)

    def release(self, key: str) -> None:
        """Give a reservation back, for instance when the create failed."""
        self._usage.release(key)

    def expire(self, now_s: float) -> list[str]:
        """Drop reservations past their time, on the clock that `reserve` was given; returns their keys."""
        return self._usage.expire(now_s)

    # ---- what it knows

    def spec(self, pool: str) -> GPUPoolSpec | None:
        """The pool's spec as last set."""
        entry = self._pools.get(pool)
        return None if entry is None else entry.spec

    def facts(self, pool: str) -> list[NodeFacts]:
        """Facts of the pool's nodes, by node name."""
        entry = self._pools.get(pool)
        return [] if entry is None else [self._facts[node] for node in sorted(entry.nodes)]

    def facts_version(self, pool: str) -> int:
        """Changes with the facts of the pool's nodes (not with what is free on them)."""
        entry = self._pools.get(pool)
        return -1 if entry is None else entry.facts_version

    def replicas_in(self, pool: str) -> int:
        """Pods of ours, and reservations, on the pool's nodes."""
        entry = self._pools.get(pool)
        return 0 if entry is None else sum(self._usage.pods_on(node) for node in entry.nodes)

    def counts_cpu(self, pool: str) -> bool:
        """Whether the pool's units are millicores."""
        supply = self.fleet.supply(pool)
        return supply is not None and self._lookup.resource(supply.accelerator) == CPU

    def overlaps(self, pool: str) -> dict[str, str]:
        """Nodes that the pool selects and another pool counts: node -> that pool."""
        entry = self._pools.get(pool)
        return {} if entry is None else dict(entry.overlaps)

    def why_no_nodes(self, pool: str) -> str:
        """Why the pool has no nodes: other pools have them, or the requirement of its selector that no node meets."""
        entry = self._pools.get(pool)
        if entry is None:
            return "no such pool"
        if entry.overlaps:
            winners = ", ".join(sorted(set(entry.overlaps.values()))[:_NAMES_SHOWN])
            return f"a node belongs to one pool only: all {len(entry.overlaps)} matching nodes are counted in {winners}"
        missed = nearest_miss(entry.required, (dict(node.labels) for node in self._nodes.values()))
        return f"the selector matches no node: {missed}"

    # ---- inside

    def _assign(self, node: NodeView) -> None:
        """Put a node into the first pool, by name, that selects it."""
        labels = dict(node.labels)
        home: str | None = None
        for name in sorted(self._pools):
            pool = self._pools[name]
            if not matches(pool.required, labels):
                if pool.overlaps.pop(node.name, None) is not None:
                    self._changed(name)
            elif home is None:
                home = name
                pool.overlaps.pop(node.name, None)
            elif pool.overlaps.get(node.name) != home:
                pool.overlaps[node.name] = home
                self._changed(name)
        if self.fleet.pool_of(node.name) != home:
            self._leave(node.name)
        if home is None:
            self.fleet.remove_node(node.name)
        else:
            self._join(home, node)

    def _join(self, name: str, node: NodeView) -> None:
        pool = self._pools[name]
        known = self._facts.get(node.name)
        facts = node_facts(node, self._slices.get(node.name, {}).values(), pool.spec, self._lookup)
        if known == facts and node.name in pool.nodes:
            return
        if known is not None and known.accelerator is not None:
            pool.accelerators[known.accelerator] -= 1
        pool.nodes.add(node.name)
        if facts.accelerator is not None:
            pool.accelerators[facts.accelerator] += 1
        pool.facts_version += 1
        self._facts[node.name] = facts
        self.fleet.set_node(name, facts)
        if known is None or known.resource != facts.resource:
            self._usage.recount(node.name)
        units, occupied = self._usage.used(node.name)
        self.fleet.set_used(node.name, units, occupied=occupied)
        self._supply(name)
        self._changed(name, room=True)

    def _leave(self, node: str) -> None:
        """Take a node out of the pool that counted it."""
        home = self.fleet.pool_of(node)
        facts = self._facts.pop(node, None)
        pool = self._pools.get(home) if home is not None else None
        if home is None or pool is None or node not in pool.nodes:
            return
        pool.nodes.discard(node)
        if facts is not None and facts.accelerator is not None:
            pool.accelerators[facts.accelerator] -= 1
        pool.facts_version += 1
        self._supply(home)
        self._changed(home)

    def _refresh(self, node: str) -> None:
        view = self._nodes.get(node)
        if view is not None:
            self._assign(view)

    def _supply(self, name: str) -> None:
        pool = self._pools[name]
        accelerator, blocked = self._accelerator(pool)
        supply = PoolSupply(
            name=name,
            accelerator=accelerator,
            suspended=pool.spec.suspend,
            spare_nodes=pool.spec.spare_nodes,
            tolerations=tuple(pool.spec.tolerations),
            blocked=blocked,
        )
        if self.fleet.supply(name) != supply:
            self.fleet.set_pool(supply)

    def _accelerator(self, pool: _Pool) -> tuple[str | None, tuple[str, str] | None]:
        stated = pool.spec.accelerator
        if stated is not None:
            if self._lookup.accelerator(stated) is None:
                return stated, ("AcceleratorUnknown", f"spec.accelerator {stated} is not in the catalogue")
            return stated, None if pool.nodes else ("NoNodes", "the pool has no nodes")
        found = sorted(name for name, count in pool.accelerators.items() if count > 0)
        if len(found) == 1:
            return found[0], None
        if found:
            return None, ("AcceleratorsDiffer", f"nodes carry {_counted(pool.accelerators, found)}")
        if pool.nodes:
            return None, ("AcceleratorUnknown", f"no source names the accelerator of its {len(pool.nodes)} nodes")
        return None, ("NoNodes", "the pool has no nodes")

    def _resource_of(self, node: str) -> str | None:
        facts = self._facts.get(node)
        return None if facts is None else facts.resource

    def _usage_changed(self, node: str, less: bool) -> None:
        pool = self.fleet.pool_of(node)
        if pool is not None:
            units, occupied = self._usage.used(node)
            self.fleet.set_used(node, units, occupied=occupied)
            self._changed(pool, room=less)

    def _changed(self, pool: str, *, room: bool = False) -> None:
        self.revision += room
        for listener in self._listeners:
            listener(pool)


def _counted(counts: Counter[str], names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({counts[name]})" for name in list(names)[:_NAMES_SHOWN])
