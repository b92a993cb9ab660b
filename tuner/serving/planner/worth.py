"""What a predicted deployment costs in the objective's unit, and whether it keeps within its watts. Pure."""

from __future__ import annotations

from controlplane.model.plans import Objective, Prediction
from tuner.serving.planner.pieces import Deployment

LEAST_COST = 1e-6  # per hour: what costs nothing still has an order


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
