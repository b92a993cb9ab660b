"""What planning costs and how it ends, for `/metrics`: a `PlanningService` that counts before another one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from controlplane.model.errors import TrimtabError
from controlplane.model.plans import PlanRequest, ServingPlan
from controlplane.model.ports import PlanningService
from controlplane.model.training_plans import TrainingPlan, TrainingPlanRequest
from controlplane.model.training_ports import PlanningDesk

Progress = Callable[[str, float], None]
Outcome = Literal["answered", "refused", "timed-out", "died", "cancelled"]
# From a repeated question (0.2 s) to the longest a process may take (120 s).
_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 120.0, 180.0)
_OF_CODE: dict[str, Outcome] = {"PlannerTimeout": "timed-out", "PlannerDied": "died"}


class CountedPlanning:
    """Fulfils `PlanningService`. `refused`: a definite answer that nothing can be planned, or why the question is wrong."""

    def __init__(self, service: PlanningService, registry: CollectorRegistry) -> None:
        self._service = service
        self._questions = Counter(
            "trimtab_planner_questions", "Planning questions by how they ended.", ["kind", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "trimtab_planner_seconds",
            "Time from a question to its end, waiting for a planner process included.",
            ["kind"],
            registry=registry,
            buckets=_BUCKETS_S,
        )
        self._open = Gauge("trimtab_planner_open", "Planning questions asked and not ended.", registry=registry)
        for outcome in get_args(Outcome):
            self._questions.labels("serving", outcome)  # a counter that shows up with its first death alarms nobody

    async def plan(self, request: PlanRequest, *, progress: Progress | None = None) -> ServingPlan:
        """See `PlanningService.plan`."""
        with self._counted("serving"):
            return await self._service.plan(request, progress=progress)

    async def close(self) -> None:
        """See `PlanningService.close`."""
        await self._service.close()

    @contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        started_s = time.monotonic()
        outcome: Outcome = "died"
        self._open.inc()
        try:
            yield
            outcome = "answered"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except TrimtabError as error:
            outcome = _OF_CODE.get(error.reason, "refused")
            raise
        finally:
            self._open.dec()
            self._questions.labels(kind, outcome).inc()
            self._seconds.labels(kind).observe(time.monotonic() - started_s)


class CountedDesk(CountedPlanning):
    """Fulfils `PlanningDesk`: the same, with training questions."""

    def __init__(self, desk: PlanningDesk, registry: CollectorRegistry) -> None:
        super().__init__(desk, registry)
        self._desk = desk

    async def plan_training(self, request: TrainingPlanRequest, *, progress: Progress | None = None) -> TrainingPlan:
        """See `PlanningDesk.plan_training`."""
        with self._counted("training"):
            return await self._desk.plan_training(request, progress=progress)


def watch_line(registry: CollectorRegistry, waiting: Callable[[], int]) -> None:
    """The line of deployments whose questions wait for their turn."""
    line = Gauge(
        "trimtab_planner_waiting", "Deployments whose planning question waits for its turn.", registry=registry
    )
    line.set_function(waiting)
