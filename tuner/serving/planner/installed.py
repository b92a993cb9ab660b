"""The planner of a running installation: its calibration may be replaced at any time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from controlplane.model.plans import PlanRequest, ServingPlan
from tuner.serving.calibration.installed import installed
from tuner.serving.planner.installation import Installation
from tuner.serving.planner.pieces import Progress
from tuner.serving.planner.plan import Planner


@dataclass(frozen=True, slots=True)
class InstalledPlanner:
    """Fills the port `ServingPlanner` with whatever calibration is at `place` when it is asked. Reading it each time
    costs milliseconds, a plan tenths of a second."""

    installation: Installation = field(default_factory=Installation)
    place: Path | None = None

    def plan(self, request: PlanRequest, *, progress: Progress | None = None) -> ServingPlan:
        """As `Planner.plan`; the answer says which calibration it was made with."""
        found = installed(self.place)
        planner = Planner(installation=self.installation, calibration=found.calibration)
        return planner.plan(request, progress=progress).model_copy(update={"calibration": found.used})
