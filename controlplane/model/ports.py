"""Ports: what one room needs and another gives. The composition roots fill them in."""

from collections.abc import Callable
from typing import Protocol

from controlplane.model.plans import PlanRequest, ServingPlan


class ServingPlanner(Protocol):
    """Answers planning questions. Pure: the same request gives the same plan."""

    def plan(self, request: PlanRequest, *, progress: Callable[[str, float], None] | None = None) -> ServingPlan:
        """Raises UnknownName, InvalidSpec or Unsupported (nothing fits) with the field at fault. `progress` is told
        what is being done and the share done in [0, 1]."""
        ...
