"""The answer in the shared words: candidates as they are shown, ranked, with reasons, and the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from controlplane.model.choice import Slo
from controlplane.model.plans import Objective, PlannedRole, PlanRequest, Prediction, ServingCandidate
from tuner.serving.planner.candidate import Candidate
from tuner.serving.planner.distance import at_least, worst
from tuner.serving.planner.pieces import Deployment, Group
from tuner.serving.planner.reasons import (
    is_below,
    nearness,
    units_of,
    why_lost,
    why_open,
    why_ranked,
    why_unsearched,
    why_won,
)
from tuner.serving.planner.search import Found
from tuner.serving.planner.space import Loss

WHY_NOT = 10
_PARETO = 12

_Row = tuple[Candidate | Loss, Callable[[], ServingCandidate]]


def best_of(found: Found, request: PlanRequest, asked: str) -> list[ServingCandidate]:
    """The deployable ones, winner first."""
    out = []
    for index, candidate in enumerate(found.done):
        reason, message = (
            why_won(candidate, found.done[1:], request.slo, asked)
            if index == 0
            else why_ranked(candidate, found.done[0])
        )
        out.append(shown(candidate, reason, message))
    return out


def advisory_of(found: Found) -> list[ServingCandidate]:
    """Those that keep the promise but need something this installation lacks."""
    out = []
    for candidate in found.advisory:
        gain = ""
        if found.done and candidate.rank[0] > found.done[0].rank[0]:
            gain = f"; it would be {candidate.rank[0] / found.done[0].rank[0] - 1:.0%} better for the objective"
        out.append(shown(candidate, "NotDeployableHere", f"{candidate.advisory}{gain}"))
    return out


def why_not_of(
    found: Found, losses: Sequence[Loss], request: PlanRequest, effort: Candidate | None = None
) -> list[ServingCandidate]:
    """The next ten, nearest first, each with the first thing it loses on; then the nearest of every pool and engine
    that neither the ranking nor these ten speak of. `effort`: the best of those that break the promise where none keeps
    it; it comes first."""
    rows: list[_Row] = [] if effort is None else [(effort, partial(_effort, effort, request.slo))]
    best = found.done[0] if found.done else None
    unsearched = [(item, partial(_unsearched, item, best, request.objective)) for item in found.unsearched]
    rows += [row for row in unsearched if best is None or not is_below(row[0], best)][: WHY_NOT // 2]
    if best is not None:
        rows += [(candidate, partial(_open, candidate, best, request.objective)) for candidate in found.open]
    rows += unsearched
    ordered = sorted(
        ((item, at_least(item) if best is None else 0.0) for item in found.lost),
        key=lambda one: (
            nearness(one[0].reason),
            one[1],
            not one[0].replayed,
            -one[0].reach,
            len(one[0].parts),
            one[0].key,
        ),
    )
    rows += [(candidate, partial(_lost, candidate)) for candidate, _ in ordered]
    rows += [
        (loss, partial(_of_loss, loss))
        for loss in sorted(losses, key=lambda one: (nearness(one.reason), -one.nearness, one.label))
    ]
    return _covering(rows, {word for candidate in (*found.done, *found.advisory) for word in _subjects(candidate)})


def _covering(rows: Sequence[_Row], told: set[str]) -> list[ServingCandidate]:
    """The first ten, and of the rest the first of each pool and engine that is not told of by then. Of a question over
    many pools there are thousands of rows: only those that are told are put into words."""
    out: list[ServingCandidate] = []
    seen: set[int] = set()
    for subject, words in rows:
        subjects = _subjects(subject)
        if id(subject) not in seen and (len(out) < WHY_NOT or not subjects <= told):
            seen.add(id(subject))
            out.append(words())
            told = told | subjects
    return out


def _subjects(subject: Candidate | Loss) -> set[str]:
    """What a line speaks of."""
    if isinstance(subject, Loss):
        return {f"pool {subject.pool}"} | (set() if subject.engine is None else {f"engine {subject.engine}"})
    shapes = [part.shape for part in subject.parts]
    return {word for shape in shapes for word in (f"pool {shape.pool.name}", f"engine {shape.case.engine}")}


def _open(candidate: Candidate, best: Candidate, objective: Objective) -> ServingCandidate:
    return shown(candidate, *why_open(candidate, best, objective))


def _unsearched(candidate: Candidate, best: Candidate | None, objective: Objective) -> ServingCandidate:
    return shown(candidate, *why_unsearched(candidate, best, objective))


def _lost(candidate: Candidate) -> ServingCandidate:
    return shown(candidate, *why_lost(candidate))


def _effort(candidate: Candidate, slo: Slo) -> ServingCandidate:
    assert candidate.prediction is not None
    kept = candidate.prediction.slo_attained
    _, said = worst(candidate.prediction, slo)
    return shown(
        candidate,
        "BestEffort",
        f"{said}, {kept:.0%} of requests would be within the SLO; in the way: {candidate.message}",
    )


def shown(candidate: Candidate, reason: str, message: str) -> ServingCandidate:
    """One candidate in the shared words. Replicas of what was not finished are the least its bounds allow."""
    deployment = candidate.deployment or candidate.tentative()
    label = candidate.label
    return ServingCandidate(
        roles=roles_of(deployment),
        accelerators=deployment.accelerators,
        score=candidate.rank[0] if candidate.state == "done" else None,
        capacity=candidate.capacity,
        prediction=candidate.prediction,
        deployable=candidate.advisory is None,
        reason=reason,
        message=message if label in message else f"{label}: {message}",
    )


def roles_of(deployment: Deployment) -> list[PlannedRole]:
    """Groups as planned roles."""
    return [
        PlannedRole(
            role=group.role,
            pool=group.unit.shape.pool.name,
            replicas=group.replicas,
            choice=group.unit.choice(),
        )
        for group in deployment.groups
    ]


def pareto_of(found: Found) -> list[ServingCandidate]:
    """Load carried within the SLO against accelerators, watts and cost: fewer replicas of what was found, and all of it.
    Points that another beats or equals in everything are left out."""
    points: list[tuple[float, tuple[float, ...], tuple[object, ...], ServingCandidate]] = []
    for candidate in found.done:
        for deployment, carried, prediction in _smaller(candidate):
            share = deployment.accelerators / candidate.deployment.accelerators if candidate.deployment else 1.0
            watts = candidate.prediction.power_w if candidate.prediction else None
            cost = deployment.cost_per_hour
            costs = (
                float(deployment.accelerators),
                *([] if watts is None else [watts * share]),
                *([] if cost is None else [cost]),
            )
            point = ServingCandidate(
                roles=roles_of(deployment),
                accelerators=deployment.accelerators,
                capacity=carried,
                prediction=prediction,
                deployable=candidate.advisory is None,
                reason="Pareto",
                message=_point_message(candidate, carried, deployment, None if watts is None else watts * share, cost),
            )
            points.append((carried, costs, (*candidate.key, deployment.accelerators), point))
    kept = [one for one in points if not any(_beats(other, one) for other in points)]
    kept.sort(key=lambda one: (one[3].accelerators, -one[0], one[2]))
    return [one[3] for one in kept[:_PARETO]]


def _smaller(candidate: Candidate) -> list[tuple[Deployment, float, Prediction | None]]:
    if candidate.deployment is None or candidate.capacity is None:
        return []
    whole = [(candidate.deployment, candidate.capacity, candidate.prediction)]
    if len(candidate.deployment.groups) > 1:
        return whole
    group = candidate.deployment.groups[0]
    return [
        (
            Deployment(groups=(Group(role=group.role, unit=group.unit, replicas=count),)),
            candidate.capacity * count / group.replicas,
            None,
        )
        for count in range(1, group.replicas)
    ] + whole


def _beats(
    one: tuple[float, tuple[float, ...], tuple[object, ...], ServingCandidate],
    other: tuple[float, tuple[float, ...], tuple[object, ...], ServingCandidate],
) -> bool:
    """At least as good in everything and better in something (equals: the first in order)."""
    if len(one[1]) != len(other[1]):
        return False
    no_worse = one[0] >= other[0] and all(a <= b for a, b in zip(one[1], other[1], strict=True))
    same = one[0] == other[0] and one[1] == other[1]
    return no_worse and (not same or str(one[2]) < str(other[2]))


def _point_message(
    candidate: Candidate, carried: float, deployment: Deployment, watts: float | None, cost: float | None
) -> str:
    """`watts` were predicted at the asked load, which is not the most that is carried."""
    power = "" if watts is None else f", about {watts:,.0f} W at its share of the asked load"
    price = "" if cost is None else f", {cost:,.2f} an hour"
    load = f"up to {carried:.3g} {candidate.evaluator.load_unit}"
    return f"{deployment.label}: {load} on {units_of(deployment)}{power}{price}"


def _of_loss(loss: Loss) -> ServingCandidate:
    return ServingCandidate(
        roles=[], accelerators=0, deployable=False, reason=loss.reason, message=f"{loss.label}: {loss.message}"
    )
