"""What is free on how many nodes, as a pool's status and a planner are told. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from controlplane.model.cluster import FREE_NODES_MAX, FreeNodes


def free_nodes(by_units: Mapping[int, int], scale: int) -> list[FreeNodes]:
    """Nodes by what is free on them, most first. `by_units`: nodes by free units, `scale` units to an accelerator (or
    core). Beyond the limit of a status the smallest amounts are left out."""
    by_amount: Counter[int] = Counter()
    for units, nodes in by_units.items():
        by_amount[units // scale] += nodes
    told = [amount for amount in sorted(by_amount, reverse=True) if amount > 0 and by_amount[amount] > 0]
    return [FreeNodes(free=amount, nodes=by_amount[amount]) for amount in told[:FREE_NODES_MAX]]
