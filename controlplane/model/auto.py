"""Planned deployments: what `spec.auto` asks for, and the plan that the status keeps."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from controlplane.model.plans import Allowed, CalibrationUsed, Lengths, Objective, PlannedRole, Prediction, Workload
from controlplane.model.resource import Part, StatusPart
from controlplane.model.routers import RouterPolicy

# Candidates kept in a status: what runs and what it can fall back to.
PLANNED_MAX = 4
LOSERS_MAX = 10
REMARKS_MAX = 4


class Traffic(Workload):
    """The traffic an endpoint is planned for: a rate or a number of clients, and lengths."""

    arrivals: Literal["poisson", "gamma", "burst", "closed"] = Field(
        default="poisson",
        description="poisson, gamma (with cv) and burst: open loop at ratePerSecond. closed: concurrency clients that "
        "send the next request when the last is answered.",
    )
    input: Lengths = Field(description="Prompt lengths.")
    output: Lengths = Field(description="Output lengths.")
    trace: None = Field(default=None, description="Not offered here: traces are files of whoever plans with them.")


class Auto(Part):
    """A plan made by Trimtab: accelerators, engine, shapes and replicas follow from model, SLO, workload and pools."""

    allowed: Allowed = Field(default_factory=Allowed, description="What the plan may use.")
    objective: Objective = Field(default="goodput-per-accelerator", description="What better means.")


class PlannedCandidate(StatusPart):
    """One deployment of the plan, with what is expected of it."""

    choices: list[PlannedRole] = Field(max_length=16, description="What runs where.")
    accelerators: int = Field(description="Accelerators of all replicas together.")
    score: float | None = Field(default=None, description="The objective's value.")
    prediction: Prediction | None = Field(default=None, description="Latencies with intervals, goodput, power, cost.")
    reason: str = Field(max_length=1024, description="Why it ranks here.")
    message: str = Field(default="", max_length=1024, description="The numbers behind the reason.")

    @property
    def replicas(self) -> int:
        """Engine replicas of all choices together."""
        return sum(choice.replicas for choice in self.choices)


class PlanLoser(StatusPart):
    """A deployment that was weighed and lost."""

    shape: str = Field(max_length=256, description="Replicas, accelerator, engine and parallel degrees in short.")
    score: float | None = Field(default=None, description="The objective's value; absent when it was not replayed.")
    advisory: bool = Field(default=False, description="True: better, but this installation cannot run it.")
    reason: str = Field(max_length=1024, description="The first thing it loses on.")
    message: str = Field(default="", max_length=1024, description="The numbers behind the reason.")


class PlanStatus(StatusPart):
    """The plan that is in force. Candidates are tried in order, like explicit choices."""

    model: str = Field(description="Model it was made for.")
    objective: Objective = Field(description="What its scores measure.")
    request_revision: str = Field(description="Hash of the parts of the spec it was made for.")
    pools_revision: str = Field(description="Hash of the pools' facts, free room apart, when they were last weighed.")
    room_revision: str = Field(description="Hash of the pools' free room when it was last weighed.")
    planned_time: datetime = Field(description="When this plan was made.")
    weighed_time: datetime = Field(description="When it was last weighed against what the pools hold.")
    router: RouterPolicy | None = Field(
        default=None, description="How its predictions take requests to reach the replicas."
    )
    candidates: list[PlannedCandidate] = Field(
        max_length=PLANNED_MAX, description="What runs, and what it falls back to, in order."
    )
    why_not: list[PlanLoser] = Field(default_factory=list, max_length=LOSERS_MAX, description="The next best.")
    weighed: int = Field(description="Deployments that were weighed.")
    replayed: int = Field(description="Of these, replayed request by request.")
    elapsed_s: float = Field(description="Time the planner took, seconds.")
    remarks: list[str] = Field(
        default_factory=list,
        max_length=REMARKS_MAX,
        description="What the answer leaves open, as what was not searched.",
    )
    calibration: CalibrationUsed | None = Field(
        default=None, description="Corrections behind the predictions; absent: unknown."
    )
