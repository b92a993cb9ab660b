"""What a plan will take and does not hold yet: others plan without it, or two deployments would count on the same room.
Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from controlplane.catalog import Catalog
from controlplane.model.auto import PlannedCandidate
from operators.pools.plannable import Pods
from operators.serving.plan_request import Claims
from operators.serving.shape import resolve
from operators.workloads.podview import PodView


def claims_of(candidate: PlannedCandidate, own: Iterable[PodView], catalog: Catalog) -> dict[str, list[Pods]]:
    """Pods of the candidate that do not exist yet, by pool. What the deployment's other pods hold in a pool leaves it for
    them in time, so it counts as theirs already."""
    existing: Counter[tuple[str, int]] = Counter()
    for pod in own:
        if pod.pool is not None and not pod.terminal:
            existing[pod.pool, pod.units or 0] += 1
    wanted: Counter[tuple[str, int]] = Counter()
    for planned in candidate.choices:
        accelerator = catalog.accelerators.get(planned.choice.accelerator)
        if accelerator is not None:
            shape = resolve(planned.choice, accelerator)
            wanted[planned.pool, shape.units_per_pod] += planned.replicas * shape.pods
    missing = {place: count - existing[place] for place, count in wanted.items() if count > existing[place]}
    leaving: Counter[str] = Counter()
    for (pool, units), count in existing.items():
        leaving[pool] += units * max(0, count - wanted[pool, units])
    found: dict[str, list[Pods]] = {}
    for (pool, units), count in sorted(missing.items()):
        soon = min(count, leaving[pool] // units) if units else 0
        leaving[pool] -= soon * units
        if count > soon:
            found.setdefault(pool, []).append(Pods(units, count - soon))
    return found


def together(claims: Iterable[Mapping[str, list[Pods]]]) -> Claims:
    """Several deployments' claims as one."""
    found: dict[str, list[Pods]] = {}
    for one in claims:
        for pool, pods in one.items():
            found.setdefault(pool, []).extend(pods)
    return found


def told(claims: Mapping[str, Mapping[str, list[Pods]]], scale: Mapping[str, int]) -> str:
    """`set aside for other plans: 8 in pool big (prod/chat)`; empty where there is nothing. `scale`: units of an
    accelerator, by pool."""
    parts = []
    for name in sorted(claims):
        for pool, pods in sorted(claims[name].items()):
            units = sum(one.units * one.count for one in pods)
            parts.append(f"{-(-units // scale.get(pool, 1))} in pool {pool} ({name})")
    return f"set aside for other plans: {', '.join(parts)}" if parts else ""
