"""How many pods really fit: free accelerators of a pool are scattered over its nodes. Pure.

A pod never spans nodes, so eight free accelerators on eight nodes take no pod of eight. Where the pool says how much is
free on how many nodes, pods are counted node by node; where it does not, its sum is all there is to count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from controlplane.catalog import Accelerator
from controlplane.model.blocks import take
from controlplane.model.plans import PlannablePool
from tuner.serving.planner.shape import Shape


def node_size(pool: PlannablePool, accelerator: Accelerator) -> int:
    """Accelerators on one node: the pool's word, the usual full node, or one where neither is known."""
    return pool.per_node or accelerator.accelerators_per_node or 1


def pod_units(units: int, pool: PlannablePool, accelerator: Accelerator) -> int:
    """Accelerators of one pod of a replica: all of them on one node, else equal parts that fit one each."""
    if accelerator.kind == "cpu":
        return units  # cores of one process
    node = node_size(pool, accelerator)
    return next(part for part in range(max(1, min(units, node)), 0, -1) if units % part == 0)


def largest_block(pool: PlannablePool) -> int | None:
    """Most accelerators free on one node; None where the pool does not say."""
    if pool.free_nodes is not None:
        return max((item.free for item in pool.free_nodes), default=0)
    return pool.largest_block


def most_replicas(shape: Shape) -> int:
    """Replicas of one shape that its pool takes when nothing else does."""
    most = shape.pool.free // shape.units
    if shape.pool.free_nodes is None:
        return most
    one = pod_units(shape.units, shape.pool, shape.accelerator)
    pods = sum(item.nodes * (item.free // one) for item in shape.pool.free_nodes)
    return min(most, pods // (shape.units // one))


def fit_together(wanted: Iterable[tuple[Shape, int]]) -> bool:
    """Whether replicas of several shapes fit into their pools side by side, largest pods first."""
    by_pool: dict[str, list[tuple[Shape, int]]] = {}
    for shape, count in wanted:
        by_pool.setdefault(shape.pool.name, []).append((shape, count))
    return all(_fits(members) for members in by_pool.values())


def _fits(members: list[tuple[Shape, int]]) -> bool:
    pool = members[0][0].pool
    if sum(shape.units * count for shape, count in members) > pool.free:
        return False
    if pool.free_nodes is None:
        return True
    free: Counter[int] = Counter()
    for item in pool.free_nodes:
        free[item.free] += item.nodes
    pods = [(pod_units(shape.units, pool, shape.accelerator), shape, count) for shape, count in members]
    for size, shape, count in sorted(pods, key=lambda item: -item[0]):
        if take(free, size, count * (shape.units // size)):
            return False
    return True
