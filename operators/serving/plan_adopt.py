"""From the planner's answer to the plan in force: what can run here, whether it replaces what runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from controlplane.catalog import Catalog
from controlplane.model.auto import (
    LOSERS_MAX,
    PLANNED_MAX,
    REMARKS_MAX,
    PlanLoser,
    PlannedCandidate,
    PlanStatus,
)
from controlplane.model.choice import AcceleratorChoice
from controlplane.model.errors import TrimtabError, Unsupported
from controlplane.model.plans import PlannedRole, PlanRequest, Prediction, ServingCandidate, ServingPlan
from controlplane.model.serving import Explicit, ServingDeployment, ServingDeploymentSpec
from operators.pools.plannable import Pods
from operators.serving.plan_request import Asked, fits
from operators.serving.plan_runs import in_front
from operators.serving.plan_words import shape_text
from operators.serving.render import RenderSettings, replica_template
from operators.serving.shape import resolve
from operators.serving.validate import validate

_CHOICES_MAX = 16
_REPLICAS_MAX = 1_000
_TEXT_MAX = 1_024
_SHAPE_MAX = 256
_MILLICORES_PER_CORE = 1000
_DIGITS = 4

Placed = tuple[tuple[str, str, AcceleratorChoice], ...]


def choices_of(plan: PlanStatus | None) -> tuple[AcceleratorChoice, ...]:
    """The plan's choices as a user would have written them: the best candidate's, then what it falls back to."""
    if plan is None:
        return ()
    found = [planned.choice for candidate in plan.candidates for planned in candidate.choices]
    return tuple(choice for index, choice in enumerate(found) if choice not in found[:index])[:_CHOICES_MAX]


def shares_of(plan: PlanStatus | None, wanted: int = 0) -> dict[int, int]:
    """Replicas of each choice of the first candidate, by its position in `choices_of`, where it is a mix of several.
    `wanted`: those beyond the plan's are split as the plan is."""
    if plan is None or not plan.candidates or len(plan.candidates[0].choices) < 2:
        return {}
    choices = choices_of(plan)
    shares: dict[int, int] = {}
    for planned in plan.candidates[0].choices:
        if planned.choice in choices:
            position = choices.index(planned.choice)
            shares[position] = shares.get(position, 0) + max(1, planned.replicas)
    found = dict(shares)
    for _ in range(min(_REPLICAS_MAX, wanted) - sum(shares.values())):
        furthest_behind = min(found, key=lambda position: ((found[position] + 1) / shares[position], position))
        found[furthest_behind] += 1
    return found


def in_force(spec: ServingDeploymentSpec, plan: PlanStatus | None) -> ServingDeploymentSpec:
    """The spec as the decision sees it: planned choices stand where explicit ones would, replicas are as planned."""
    if spec.auto is None or plan is None or not plan.candidates:
        return spec
    planned = min(_REPLICAS_MAX, plan.candidates[0].replicas)
    replicas = max(spec.replicas, planned) if spec.replicas else 0
    choices = list(choices_of(plan)) if plan.model == spec.model.name else []
    explicit = Explicit.model_construct(choices=choices) if choices else None
    return spec.model_copy(update={"explicit": explicit, "replicas": replicas})


def plan_status(
    plan: ServingPlan,
    asked: Asked,
    deployment: ServingDeployment,
    catalog: Catalog,
    settings: RenderSettings,
    now_s: float,
) -> PlanStatus:
    """What a status keeps of an answer: candidates that can be rendered here, one per place first. Raises the best
    candidate's error when none can."""
    able: list[PlannedCandidate] = []
    losers: list[PlanLoser] = []
    first: TrimtabError | None = None
    for candidate in plan.best:
        planned = _planned(candidate)
        error = _why_not(candidate, planned, deployment, catalog, settings)
        if error is None:
            able.append(planned)
        else:
            first = first or error
            losers.append(_loser(candidate, reason=error.reason, message=str(error)))
    if not able:
        raise first or _nothing_keeps_the_promise(plan)
    kept = _distinct_places_first(able)
    losers += [_loser(candidate, advisory=True) for candidate in plan.advisory]
    # Those that never became a deployment (an engine that does not run there) come last.
    losers += [_loser(candidate) for candidate in sorted(plan.why_not, key=lambda candidate: not candidate.roles)]
    moment = datetime.fromtimestamp(int(now_s), UTC)
    return PlanStatus(
        model=deployment.spec.model.name,
        objective=plan.request.objective,
        request_revision=asked.request_revision,
        pools_revision=asked.pools_revision,
        room_revision=asked.room_revision,
        planned_time=moment,
        weighed_time=moment,
        router=plan.request.routing.picks_by,
        candidates=kept,
        why_not=losers[:LOSERS_MAX],
        weighed=plan.weighed,
        replayed=plan.replayed,
        elapsed_s=round(plan.elapsed_s, 3),
        calibration=plan.calibration,
        remarks=[remark[:_TEXT_MAX] for remark in plan.remarks[:REMARKS_MAX]],
    )


def adopt(
    running: PlanStatus | None, new: PlanStatus, room: bool, margin: float, runs: PlannedCandidate | None = None
) -> tuple[PlanStatus, str]:
    """The plan to follow from now on, and why. `runs`: the candidate of the running plan that serves, where that is not
    its first. `room`: it still fits into the pools.

    A running plan yields when it has no room, or when the new one is better by `margin`: moving replicas costs more than
    a small gain. Scores of two requests, or of two calibrations, do not compare: after a change of either the running
    deployment is judged by its place among the new candidates."""
    if running is None or not running.candidates:
        return new, "first plan"
    best, current = new.candidates[0], runs or running.candidates[0]
    if where(best) == where(current):
        return new, "the same deployment, weighed again"
    if not room:
        return new, "the running plan has no room any more"
    twin = next((candidate for candidate in new.candidates if where(candidate) == where(current)), None)
    same_question = running.request_revision == new.request_revision and running.objective == new.objective
    same_answers = _digest(running) == _digest(new)
    same_prices = new.objective != "goodput-per-cost" or running.pools_revision == new.pools_revision
    compares = same_question and same_answers and same_prices
    score = twin.score if twin is not None else current.score if compares else None
    if score is None or best.score is None:
        what = "request" if not same_question else "calibration" if not same_answers else "pools"
        verb, whose = ("have changed", "their") if what == "pools" else ("changed", "its")
        return new, f"the {what} {verb} and the running deployment is not among {whose} best"
    if best.score >= score * (1 + margin):
        return new, f"better by {100 * (best.score / score - 1):.0f} %" if score > 0 else "better"
    if twin is None:
        revised = {
            "pools_revision": new.pools_revision,
            "room_revision": new.room_revision,
            "weighed_time": new.weighed_time,
        }
        return in_front(running, current).model_copy(update=revised), f"kept: better by less than {100 * margin:.0f} %"
    others = [candidate for candidate in new.candidates if candidate is not twin]
    return (
        new.model_copy(update={"candidates": [twin, *others], "planned_time": running.planned_time}),
        f"kept: better by less than {100 * margin:.0f} %",
    )


def _digest(plan: PlanStatus) -> str | None:
    return None if plan.calibration is None else plan.calibration.digest


def where(candidate: PlannedCandidate) -> Placed:
    """What decides whether two candidates are the same deployment: shapes and places, not how many."""
    return tuple((choice.role, choice.pool, choice.choice) for choice in candidate.choices)


def has_room(
    plan: PlanStatus | None, request: PlanRequest, catalog: Catalog, runs: PlannedCandidate | None = None
) -> bool:
    """Whether what the plan runs (`runs`, else its first candidate) fits into the pools as they are, and its engines can
    still serve it."""
    if plan is None or not plan.candidates:
        return False
    choices = (runs or plan.candidates[0]).choices
    engines = request.allowed.engines
    if engines and any(planned.choice.engine not in engines for planned in choices):
        return False
    needed: dict[str, list[Pods]] = {}
    scale: dict[str, int] = {}
    for planned in choices:
        accelerator = catalog.accelerators.get(planned.choice.accelerator)
        if accelerator is None:
            return False
        shape = resolve(planned.choice, accelerator)
        scale[planned.pool] = _MILLICORES_PER_CORE if accelerator.kind == "cpu" else 1
        needed.setdefault(planned.pool, []).append(Pods(shape.units_per_pod, planned.replicas * shape.pods))
    present = {(pool.name, pool.accelerator) for pool in request.pools}
    if any((planned.pool, planned.choice.accelerator) not in present for planned in choices):
        return False
    return fits(needed, request.pools, scale)


def _nothing_keeps_the_promise(plan: ServingPlan) -> Unsupported:
    """What was asked is not deployed by halves: the user hears what comes nearest, and decides."""
    nearest = f"; the nearest, {shape_text(plan.why_not[0])}: {plan.why_not[0].message}" if plan.why_not else ""
    return Unsupported(
        f"no deployment on these pools keeps the SLO for this workload{nearest}",
        field="spec.slo",
        hint="loosen the SLO, lower the workload, allow more, or give more accelerators",
        code="SloUnreachable",
    )


def _planned(candidate: ServingCandidate) -> PlannedCandidate:
    choices = [
        PlannedRole(
            role=role.role,
            pool=role.pool,
            replicas=role.replicas,
            choice=role.choice if role.choice.pools else role.choice.model_copy(update={"pools": [role.pool]}),
        )
        for role in candidate.roles[:_CHOICES_MAX]
    ]
    return PlannedCandidate(
        choices=choices,
        accelerators=candidate.accelerators,
        score=candidate.score,
        prediction=_rounded(candidate.prediction),
        reason=candidate.reason[:_TEXT_MAX],
        message=candidate.message[:_TEXT_MAX],
    )


def _rounded(prediction: Prediction | None) -> Prediction | None:
    """Digits that mean something: no prediction is better than a thousandth, and a status is read by people."""
    if prediction is None:
        return None

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.{_DIGITS}g}")
        if isinstance(value, dict):
            return {key: short(item) for key, item in value.items()}
        return value

    return Prediction.model_validate(short(prediction.model_dump()))


def _why_not(
    candidate: ServingCandidate,
    planned: PlannedCandidate,
    deployment: ServingDeployment,
    catalog: Catalog,
    settings: RenderSettings,
) -> TrimtabError | None:
    """Why this candidate cannot be deployed here; None when it can."""
    if not candidate.deployable or any(role.role != "aggregated" for role in candidate.roles):
        return Unsupported("separate roles are advice only: they are not deployed by auto", field="spec.auto")
    if not planned.choices:
        return Unsupported("it names no replicas", field="spec.auto")
    explicit = Explicit.model_construct(choices=[choice.choice for choice in planned.choices])
    tried = deployment.model_copy(update={"spec": deployment.spec.model_copy(update={"explicit": explicit})})
    errors = validate(tried, catalog, settings)
    if errors:
        return errors[0]
    try:
        for index in range(len(explicit.choices)):
            replica_template(tried, index, catalog, settings)
    except TrimtabError as error:
        return error
    return None


def _distinct_places_first(able: Sequence[PlannedCandidate]) -> list[PlannedCandidate]:
    """The best, then the best of every other place, then the rest: a fallback in the pool that is full is none."""
    seen: set[frozenset[str]] = set()
    first: list[PlannedCandidate] = []
    rest: list[PlannedCandidate] = []
    for candidate in able:
        place = frozenset(choice.pool for choice in candidate.choices)
        (rest if place in seen else first).append(candidate)
        seen.add(place)
    return [*first, *rest][:PLANNED_MAX]


def _loser(
    candidate: ServingCandidate, *, advisory: bool = False, reason: str | None = None, message: str | None = None
) -> PlanLoser:
    return PlanLoser(
        shape=shape_text(candidate)[:_SHAPE_MAX],
        score=candidate.score,
        advisory=advisory,
        reason=(candidate.reason if reason is None else reason)[:_TEXT_MAX],
        message=(candidate.message if message is None else message)[:_TEXT_MAX],
    )
