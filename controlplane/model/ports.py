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


class PlanningService(Protocol):
    """A `ServingPlanner` at arm's length: it computes elsewhere, so that an event loop can wait for it."""

    async def plan(self, request: PlanRequest, *, progress: Callable[[str, float], None] | None = None) -> ServingPlan:
        """Raises what the planner raises, and Refused where it ran out of time or memory or died (`PLANNER_DOWN`).
        Cancelling the call ends the computation."""
        ...

    async def close(self) -> None:
        """End every computation."""
        ...


# Codes of Refused that say nothing about the request: the same one may be answered next time.
PLANNER_DOWN = frozenset({"PlannerTimeout", "PlannerDied"})
