"""Which candidate of a plan the replicas really run: the first may have no room, and a fallback serve instead. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from controlplane.catalog import Catalog
from controlplane.model.auto import PlannedCandidate, PlanStatus
from operators.serving.shape import resolve
from operators.workloads.podview import PodView

_Place = tuple[str | None, str | None, str | None, int | None]  # pool, accelerator, engine, units of a pod


def runs_on(plan: PlanStatus | None, pods: Iterable[PodView], uid: str, catalog: Catalog) -> PlannedCandidate | None:
    """The candidate that most of the deployment's own pods belong to, once one of them answers; the better of two with
    as many. Of a mix no choice counts for more than its share. None: nothing of the plan serves yet."""
    if plan is None:
        return None
    alive: Counter[_Place] = Counter()
    ready: Counter[_Place] = Counter()
    for pod in pods:
        if pod.owner_uid == uid and not pod.terminal and not pod.deleting:
            place = pod.pool, pod.accelerator, pod.engine, pod.units
            alive[place] += 1
            ready[place] += pod.ready
    best: PlannedCandidate | None = None
    most = 0.0
    for candidate in plan.candidates:
        places = _places(candidate, catalog)
        # More replicas than planned (spec.replicas) are split as the plan is.
        more = max(1.0, sum(alive.values()) / max(1, sum(places.values())))
        count = sum(min(float(alive[place]), share * more) for place, share in places.items())
        if count > most:
            most, best = count, candidate if any(ready[place] for place in places) else None
    return best


def settled(plan: PlanStatus, runs: PlannedCandidate | None, margin: float) -> PlanStatus:
    """The plan with a fallback that serves in front, unless a candidate before it is better by `margin`: replicas do not
    move for less when room appears."""
    if runs is None or runs.score is None or runs not in plan.candidates:
        return plan
    before = plan.candidates[: plan.candidates.index(runs)]
    if not before or any(item.score is None or item.score >= runs.score * (1 + margin) for item in before):
        return plan
    return in_front(plan, runs)


def in_front(plan: PlanStatus, runs: PlannedCandidate) -> PlanStatus:
    """The plan with this candidate first."""
    others = [candidate for candidate in plan.candidates if candidate != runs]
    return plan.model_copy(update={"candidates": [runs, *others]})


def _places(candidate: PlannedCandidate, catalog: Catalog) -> Counter[_Place]:
    """Pods of the candidate by where and what they are."""
    found: Counter[_Place] = Counter()
    for planned in candidate.choices:
        accelerator = catalog.accelerators.get(planned.choice.accelerator)
        if accelerator is not None:
            shape = resolve(planned.choice, accelerator)
            place = planned.pool, planned.choice.accelerator, planned.choice.engine, shape.units_per_pod
            found[place] += planned.replicas * shape.pods
    return found
