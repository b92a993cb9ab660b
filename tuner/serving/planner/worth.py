"""What a predicted deployment costs in the objective's unit, and whether it keeps within its watts. Pure."""

from __future__ import annotations

from controlplane.model.plans import Objective, Prediction
from tuner.serving.planner.pieces import Deployment


def cost_of(deployment: Deployment, objective: Objective, prediction: Prediction) -> float | None:
    """The objective's unit for a deployment that was predicted; None where it is not known."""
    if objective == "goodput-per-cost":
        return deployment.cost_per_hour
    if objective == "goodput-per-watt":
        return prediction.power_w
    return float(deployment.accelerators)


def too_many_watts(prediction: Prediction, most: float) -> str | None:
    if prediction.power_w is None:
        return f"its power is not known, and the budget is {most:g} W"
    if prediction.power_w > most:
        return f"it draws {prediction.power_w:,.0f} W, the budget is {most:g} W"
    return None
