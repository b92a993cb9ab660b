"""Ports of the training planner: one that computes here, and one at arm's length."""

from collections.abc import Callable
from typing import Protocol

from controlplane.model.ports import PlanningService
from controlplane.model.training_plans import TrainingPlan, TrainingPlanRequest


class TrainingPlanner(Protocol):
    """Answers training questions. Pure: the same request gives the same plans, unless a time limit stops the search."""

    def plan(
        self, request: TrainingPlanRequest, *, progress: Callable[[str, float], None] | None = None
    ) -> TrainingPlan:
        """Raises UnknownName, InvalidSpec or Unsupported (nothing fits) with the field at fault. `progress` is told
        what is being done and the share done in [0, 1]."""
        ...


class PlanningDesk(PlanningService, Protocol):
    """A `PlanningService` that answers training questions, too."""

    async def plan_training(
        self, request: TrainingPlanRequest, *, progress: Callable[[str, float], None] | None = None
    ) -> TrainingPlan:
        """Raises what the planner raises, and Refused where it ran out of time or memory or died (`PLANNER_DOWN`).
        Cancelling the call ends the computation."""
        ...
