"""All pools, kept up to date event by event, and the one question: where does this gang go?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controlplane.model.cluster import NodeFacts, TopologyLevel
from operators.placement import explain, solve
from operators.placement.arrays import UNKNOWN, PoolArrays
from operators.placement.filters import Filtered, candidates_of
from operators.placement.types import GangRequest, Placement, PoolSupply, PoolTotals, PoolVerdict, Refusal


class Fleet:
    """Pools and their nodes as arrays. Updates are O(1); a placement is a few passes over one pool's arrays.

    Not thread-safe: one owner updates and asks.
    """

    def __init__(self) -> None:
        self._pools: dict[str, PoolArrays] = {}
        self._pool_of: dict[str, str] = {}

    # ---- what the fleet is made of

    def set_pool(self, supply: PoolSupply) -> None:
        """Add a pool or replace its own facts; its nodes stay."""
        known = self._pools.get(supply.name)
        if known is None:
            self._pools[supply.name] = PoolArrays(supply)
        else:
            known.set_supply(supply)

    def remove_pool(self, name: str) -> None:
        """Forget a pool and its nodes. Unknown names are ignored."""
        pool = self._pools.pop(name, None)
        if pool is not None:
            for node in pool.nodes():
                self._pool_of.pop(node.name, None)

    def set_node(self, pool: str, node: NodeFacts) -> None:
        """Add a node to a pool, move it there, or replace its facts. Raises KeyError for a pool that was not set."""
        arrays = self._pools[pool]
        before = self._pool_of.get(node.name)
        if before is not None and before != pool:
            self._pools[before].remove_node(node.name)
        self._pool_of[node.name] = pool
        arrays.set_node(node)

    def remove_node(self, name: str) -> None:
        """Forget a node and its usage. Unknown names are ignored."""
        pool = self._pool_of.pop(name, None)
        if pool is not None:
            self._pools[pool].remove_node(name)

    def set_used(self, node: str, units: int, *, occupied: bool | None = None) -> None:
        """Units taken on a node, replacing what was set before; nodes of no pool are ignored.

        `occupied`: the node no longer counts as empty (spares are chosen from empty nodes); units > 0 when None.
        """
        pool = self._pool_of.get(node)
        if pool is not None:
            self._pools[pool].set_used(node, units, units > 0 if occupied is None else occupied)

    # ---- what it says

    def pool_names(self) -> list[str]:
        """Sorted."""
        return sorted(self._pools)

    def supply(self, pool: str) -> PoolSupply | None:
        """A pool's own facts as last set."""
        arrays = self._pools.get(pool)
        return None if arrays is None else arrays.supply

    def pool_of(self, node: str) -> str | None:
        """The pool that counts a node."""
        return self._pool_of.get(node)

    def node(self, name: str) -> NodeFacts | None:
        """A node's facts as last set."""
        pool = self._pool_of.get(name)
        return None if pool is None else self._pools[pool].node(name)

    def domain_of(self, node: str, level: TopologyLevel) -> str | None:
        """The node's domain at a level; None when unknown."""
        facts = self.node(node)
        if facts is None:
            return None
        return facts.name if level == "host" else facts.domains.get(level)

    def totals(self, pool: str) -> PoolTotals:
        """Sums over a pool; all zero for one that was not set."""
        arrays = self._pools.get(pool)
        return PoolTotals() if arrays is None else arrays.totals()

    def free_on(self, node: str) -> int:
        """Units that placement may still use on a node; 0 for one of no pool."""
        pool = self._pool_of.get(node)
        return 0 if pool is None else self._pools[pool].free_on(node)

    # ---- the question

    def place(self, request: GangRequest) -> Placement | Refusal:
        """A node for every pod, or why not, pool by pool. Changes nothing; equal fleets give equal answers."""
        verdicts: list[PoolVerdict] = []
        names = list(dict.fromkeys(request.pools)) or self._offering(request.accelerator)
        if not names:
            return Refusal((explain.no_pool(request, list(self._pools.values())),))
        for name in names:
            arrays = self._pools.get(name)
            if arrays is None:
                verdicts.append(explain.unknown_pool(request, name, self.pool_names()))
                continue
            arrays.refresh()
            verdict = explain.pool_gate(request, arrays)
            if verdict is None:
                filtered = candidates_of(request, arrays)
                placed = _place(request, filtered, tuple(verdicts))
                if placed is not None:
                    return placed
                verdict = explain.first_failing(request, filtered)
            verdicts.append(verdict)
        others = [pool for name, pool in sorted(self._pools.items()) if name not in names]
        return Refusal(explain.with_alternative(request, tuple(verdicts), others))

    def explain(self, request: GangRequest) -> tuple[Placement | PoolVerdict, ...]:
        """The answer of each pool in question on its own, in order."""
        answers: list[Placement | PoolVerdict] = []
        for name in list(dict.fromkeys(request.pools)) or self._offering(request.accelerator):
            answer = self.place(replace(request, pools=(name,)))
            answers.append(answer if isinstance(answer, Placement) else answer.verdicts[0])
        if not answers:
            answers.append(explain.no_pool(request, list(self._pools.values())))
        return tuple(answers)

    def _offering(self, accelerator: str) -> list[str]:
        return sorted(name for name, pool in self._pools.items() if pool.supply.accelerator == accelerator)


def _place(request: GangRequest, filtered: Filtered, passed_over: tuple[PoolVerdict, ...]) -> Placement | None:
    candidates, arrays, need = filtered.candidates, filtered.candidates.arrays, request.topology
    if need is None:
        take = solve.choose(candidates, request.pods, solve.default_levels(arrays))
    else:
        take = solve.choose_in_one(candidates, request.pods, need)
        if take is None and need.mode == "preferred":
            levels = (need.level, *solve.levels_below(arrays, need.level))
            take = solve.choose(candidates, request.pods, levels)
    if take is None:
        return None
    take = solve.in_rank_order(arrays, take)
    positions = np.array([position for position, _ in take])
    level = need.level if need is not None else next(iter(reversed(solve.default_levels(arrays))), None)
    domain = None
    if level is not None:
        numbers = arrays.domain(level)[positions]
        if numbers[0] != UNKNOWN and bool((numbers == numbers[0]).all()):
            domain = arrays.domain_names(level)[int(numbers[0])]
    met = need is None or (domain is not None and need.domain in (None, domain))
    return Placement(
        pool=arrays.supply.name,
        accelerator=request.accelerator,
        nodes=tuple(arrays.names[position] for position, count in take for _ in range(count)),
        units_per_pod=request.units_per_pod,
        domain=domain,
        topology_met=met,
        opened_nodes=int(candidates.empty[positions].sum()),
        leftover_units=int(candidates.free[positions].sum()) - request.units,
        passed_over=passed_over,
    )
