"""Replica counts of several parts, cheapest first, without listing them all (four pools of a hundred replicas have 1e8).

Best-first over prefixes: what a prefix costs at least is what it has, the least of the other parts, and the replicas
still missing at the cheapest of those.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from controlplane.model.plans import PlanRequest

Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """What one replica of each part takes of a budget, and the budget (inf: only ordered by it)."""

    weights: tuple[float, ...]
    most: float

    def least(self, counts: Counts, ranges: Sequence[range], missing: int) -> float:
        """What counts that begin like this take at least."""
        rest = range(len(counts), len(ranges))
        fixed = sum(weight * count for weight, count in zip(self.weights, counts, strict=False))
        if not rest:
            return fixed
        return (
            fixed
            + sum(self.weights[i] * ranges[i].start for i in rest)
            + max(0, missing) * min(self.weights[i] for i in rest)
        )


def limits_of(
    request: PlanRequest, units: tuple[float, ...], money: tuple[float, ...], watts: tuple[float, ...]
) -> tuple[Limit, list[Limit]]:
    """What the objective orders counts by, and the budgets that hold whatever is ordered by."""
    weights = {"goodput-per-cost": money, "goodput-per-watt": watts}.get(request.objective, units)
    budgets = [(units, request.allowed.max_accelerators), (money, request.allowed.max_cost_per_hour)]
    return Limit(weights, math.inf), [Limit(one, most) for one, most in budgets if most is not None]


def cheapest_first(
    ranges: Sequence[range],
    order: Limit,
    budgets: Sequence[Limit],
    need: Callable[[], int],
    cost: Callable[[Counts], float | None],
) -> Iterator[tuple[float, Counts]]:
    """(cost, counts) in order. `need`: fewest replicas of all parts together; it may rise meanwhile. `cost`: exact; None
    forbids the counts, and all that have more of a part."""
    if not all(ranges):
        return
    heap: list[tuple[float, Counts]] = [(0.0, ())]
    while heap:
        bound, counts = heapq.heappop(heap)
        missing = need() - sum(counts) - sum(one.start for one in ranges[len(counts) :])
        if len(counts) == len(ranges):
            if missing <= 0:
                yield bound, counts
            continue
        at, rest = ranges[len(counts)], ranges[len(counts) + 1 :]
        spare = sum(one[-1] - one.start for one in rest)  # replicas that the parts after this one can add
        first = max(at.start, at.start + missing - spare)
        for count in range(first, at.stop):
            more = (*counts, count)
            left = missing - (count - at.start)
            if any(limit.least(more, ranges, left) > limit.most * (1 + 1e-9) for limit in budgets):
                continue  # more of a dear part may leave less for dearer ones
            exact = cost((*more, *(one.start for one in rest)))
            if exact is None:
                break
            heapq.heappush(heap, (exact if not rest else order.least(more, ranges, left), more))
