"""The solver for one pool: which nodes take how many pods of a gang. Pure; arrays in, positions out.

Order of wishes, all below the hard constraints: nodes without peers (Spread only), few nodes, few domains, the
tightest fit at each step (domain, then node), so that large blocks stay whole; then name. This is Kueue's BestFit
(topology-aware scheduling: largest domains first, the last one the tightest that suffices) applied at every level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.model.cluster import TopologyLevel
from operators.placement.arrays import UNKNOWN, Bools, Ints, PoolArrays
from operators.placement.types import TopologyNeed

# Levels below one another; the NVLink domain stands beside the tree (a rack on GB200, a host on HGX boards).
_TREE: tuple[TopologyLevel, ...] = ("region", "zone", "datacenter", "block", "rack")

Take = list[tuple[int, int]]


@dataclass(slots=True)
class Candidates:
    """Nodes of one pool that met every constraint on nodes. `slots`: pods each could take, 0 where none.

    `budget`: empty nodes that may be opened without touching the spares. `peers` is None when they do not matter.
    """

    arrays: PoolArrays
    free: Ints
    slots: Ints
    empty: Bools
    budget: int
    peers: Ints | None = None

    def within(self, mask: Bools) -> Candidates:
        """Only the nodes of a mask."""
        slots = np.where(mask, self.slots, 0)
        return Candidates(self.arrays, self.free, slots, self.empty, self.budget, self.peers)


def fitting(candidates: Candidates) -> int:
    """Pods that fit with the spares kept: all slots on opened nodes, and the largest empty nodes within the budget."""
    slots, empty = candidates.slots, candidates.empty
    opened = slots[empty]
    opened = opened[opened > 0]
    base = int(slots.sum()) - int(opened.sum())
    if candidates.budget <= 0:
        return base
    if len(opened) > candidates.budget:
        opened = np.partition(opened, len(opened) - candidates.budget)[-candidates.budget :]
    return base + int(opened.sum())


def domain_fitting(candidates: Candidates, domains: Ints, count: int) -> Ints:
    """Pods that fit in each domain alone, spares kept. `domains` must hold no UNKNOWN; `count` is their number."""
    slots, empty = candidates.slots, candidates.empty
    opened = np.flatnonzero(empty & (slots > 0))
    if len(opened) <= candidates.budget:
        return _sum_by(domains, slots, count)
    base = _sum_by(domains, np.where(empty, 0, slots), count)
    if candidates.budget <= 0:
        return base
    order = opened[np.lexsort((-slots[opened], domains[opened]))]
    groups = domains[order]
    starts = np.searchsorted(groups, np.arange(count))
    rank = np.arange(len(order)) - starts[groups]
    best = order[rank < candidates.budget]
    return base + _sum_by(domains[best], slots[best], count)


def default_levels(arrays: PoolArrays) -> tuple[TopologyLevel, ...]:
    """Levels along which a gang is kept together when it asks for none: those that tell nodes apart."""
    return tuple(level for level in _TREE if arrays.splits(level))


def levels_below(arrays: PoolArrays, level: TopologyLevel) -> tuple[TopologyLevel, ...]:
    """Narrower levels that tell nodes apart."""
    below = _TREE[_TREE.index(level) + 1 :] if level in _TREE else ()
    return tuple(item for item in below if arrays.splits(item))


def in_named_domain(candidates: Candidates, need: TopologyNeed) -> Candidates:
    """Only nodes whose domain at the level is known, and is the pinned one if there is one."""
    domains = candidates.arrays.domain(need.level)
    if need.domain is not None:
        return candidates.within(domains == candidates.arrays.domain_id(need.level, need.domain))
    return candidates.within(domains != UNKNOWN)


def choose_in_one(candidates: Candidates, pods: int, need: TopologyNeed) -> Take | None:
    """Nodes for all pods inside one domain of the level; None when no domain takes them all."""
    inside = in_named_domain(candidates, need)
    best = best_domain(inside, pods, need.level)
    if best is None:
        return None
    domains = candidates.arrays.domain(need.level)
    return choose(inside.within(domains == best), pods, levels_below(candidates.arrays, need.level))


def in_rank_order(arrays: PoolArrays, take: Take) -> Take:
    """Nodes of one domain beside each other, then by name: consecutive ranks are close."""
    levels = [level for level in (*_TREE, "nvlink-domain") if arrays.splits(level)]
    columns = [arrays.domain(level) for level in levels]
    return sorted(take, key=lambda item: (*(int(column[item[0]]) for column in columns), item[0]))


def choose(candidates: Candidates, pods: int, levels: Sequence[TopologyLevel]) -> Take | None:
    """Nodes for all pods, together along `levels` (broad to narrow) as far as possible; None when they do not fit."""
    if fitting(candidates) < pods:
        return None
    single = _single(candidates, pods, levels[-1] if levels else None)
    if single is not None:
        return [(single, pods)]
    if not levels:
        return _several(_open_best(candidates), pods)
    level, narrower = levels[0], levels[1:]
    domains, count = dense(candidates.arrays, level)
    best = best_domain(candidates, pods, level)
    if best is not None:
        return choose(candidates.within(domains == best), pods, narrower)
    return _across(_open_best(candidates), pods, domains, count, narrower)


def best_domain(candidates: Candidates, pods: int, level: TopologyLevel) -> int | None:
    """The domain with the least free units that takes the whole gang; with peers, one without them first."""
    domains, count = dense(candidates.arrays, level)
    fits = domain_fitting(candidates, domains, count)
    enough = np.flatnonzero(fits >= pods)
    if len(enough) == 0:
        return None
    if candidates.peers is not None and len(enough) > 1:
        apart = candidates.within(candidates.peers == 0)
        alone = enough[domain_fitting(apart, domains, count)[enough] >= pods]
        enough = alone if len(alone) else enough
    free = _sum_by(domains, np.where(candidates.slots > 0, candidates.free, 0), count)[enough]
    return int(enough[np.argmin(free)])  # the first of equals: numbers follow node names, the unknown comes last


def dense(arrays: PoolArrays, level: TopologyLevel) -> tuple[Ints, int]:
    """Domain numbers with the unknown ones gathered in one last domain, and the number of domains."""
    domains = arrays.domain(level)
    known = len(arrays.domain_names(level))
    return np.where(domains == UNKNOWN, known, domains), known + 1


def _single(candidates: Candidates, pods: int, level: TopologyLevel | None) -> int | None:
    """The tightest single node for all pods; among equals one already in use, then one in the fullest domain."""
    mask = candidates.slots >= pods
    if candidates.budget <= 0:
        mask &= ~candidates.empty
    nodes = np.flatnonzero(mask)
    if len(nodes) == 0:
        return None
    keys = [] if candidates.peers is None else [candidates.peers]
    keys += [candidates.free, candidates.empty.astype(np.int64)]
    for key in keys:
        values = key[nodes]
        nodes = nodes[values == values.min()]
        if len(nodes) == 1:
            return int(nodes[0])
    if level is not None:
        domains, count = dense(candidates.arrays, level)
        free = _sum_by(domains, np.where(candidates.slots > 0, candidates.free, 0), count)[domains[nodes]]
        nodes = nodes[free == free.min()]
    return int(nodes[0])


def _several(candidates: Candidates, pods: int) -> Take:
    """Fewest nodes: the largest first, the last one the tightest that suffices. The budget must not bind."""
    nodes = np.flatnonzero(candidates.slots)
    slots, free, empty = candidates.slots[nodes], candidates.free[nodes], candidates.empty[nodes]
    peers = np.zeros(len(nodes), np.int64) if candidates.peers is None else candidates.peers[nodes]
    order = np.lexsort((free, empty, -slots, peers))
    total = np.cumsum(slots[order])
    full = int(np.searchsorted(total, pods))
    rest = pods - (int(total[full - 1]) if full else 0)
    left = order[full:]
    left = left[slots[left] >= rest]
    last = left[np.lexsort((left, empty[left], free[left], peers[left]))[0]]
    take = [(int(nodes[item]), int(slots[item])) for item in order[:full]]
    return [*take, (int(nodes[last]), rest)]


def _across(
    candidates: Candidates, pods: int, domains: Ints, count: int, narrower: Sequence[TopologyLevel]
) -> Take | None:
    """No single domain suffices: the largest ones whole, then the tightest that takes the rest."""
    fits = _sum_by(domains, candidates.slots, count)
    known = np.arange(count - 1)
    order = [*known[np.argsort(-fits[known], kind="stable")], count - 1]  # nodes of unknown domain last
    take: Take = []
    rest = pods
    for largest in order:
        here = min(int(fits[largest]), rest)
        if here == 0:
            continue
        enough = np.flatnonzero(fits[:-1] >= rest)
        domain = enough[np.argmin(fits[enough])] if len(enough) else largest
        fits[domain] = 0
        part = choose(candidates.within(domains == domain), here, narrower)
        if part is None:
            return None
        take += part
        rest -= here
        if rest == 0:
            return take
    return None


def _open_best(candidates: Candidates) -> Candidates:
    """Leave only as many empty nodes as may be opened, those with most slots, so that the budget binds no longer."""
    opened = np.flatnonzero(candidates.empty & (candidates.slots > 0))
    if len(opened) <= candidates.budget:
        return candidates
    kept = np.ones(len(candidates.slots), np.bool_)
    order = opened[np.argsort(-candidates.slots[opened], kind="stable")]
    kept[order[max(0, candidates.budget) :]] = False
    return candidates.within(kept)


def _sum_by(domains: Ints, values: Ints, count: int) -> Ints:
    return np.bincount(domains, weights=values, minlength=count).astype(np.int64)
