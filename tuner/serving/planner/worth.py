"""What a predicted deployment costs in the objective's unit, and whether it keeps within its watts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from controlplane.model.plans import Objective, PlanRequest, Prediction
from tuner.serving.planner.packing import fit_together
from tuner.serving.planner.pieces import Deployment
from tuner.serving.planner.shape import Shape

LEAST_COST = 1e-6  # per hour: what costs nothing still has an order


def price_of(
    shapes: Sequence[Shape], counts: Sequence[int], request: PlanRequest, least_watts: Callable[[Shape], float]
) -> float | None:
    """The objective's unit for so many replicas of each shape, before anything is predicted; None where a budget or a pool
    forbids them."""
    used: dict[str, int] = {}
    money, priced = 0.0, True
    for shape, count in zip(shapes, counts, strict=True):
        used[shape.pool.name] = used.get(shape.pool.name, 0) + count * shape.units
        if used[shape.pool.name] > shape.pool.free:
            return None
        priced &= shape.pool.price_per_accelerator_hour is not None
        money += count * shape.units * (shape.pool.price_per_accelerator_hour or 0.0)
    if len(used) < len(shapes) and not fit_together(zip(shapes, counts, strict=True)):
        return None
    accelerators, allowed = sum(used.values()), request.allowed
    if allowed.max_accelerators is not None and accelerators > allowed.max_accelerators:
        return None
    if allowed.max_cost_per_hour is not None and (not priced or money > allowed.max_cost_per_hour):
        return None
    if request.objective == "goodput-per-cost":
        return max(money, LEAST_COST) if priced else None
    if request.objective == "goodput-per-watt":
        return sum(count * shape.units * least_watts(shape) for shape, count in zip(shapes, counts, strict=True))
    return float(accelerators)


def cost_of(deployment: Deployment, objective: Objective, prediction: Prediction) -> float | None:
    """The objective's unit for a deployment that was predicted; None where it is not known."""
    if objective == "goodput-per-cost":
        cost = deployment.cost_per_hour
        return None if cost is None else max(cost, LEAST_COST)
    if objective == "goodput-per-watt":
        return prediction.power_w
    return float(deployment.accelerators)


def too_many_watts(prediction: Prediction, most: float) -> str | None:
    if prediction.power_w is None:
        return f"its power is not known, and the budget is {most:g} W"
    if prediction.power_w > most:
        return f"it draws {prediction.power_w:,.0f} W, the budget is {most:g} W"
    return None
