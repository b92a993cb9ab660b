"""Documents of the planning routes: questions, jobs, predictions beside what engines report."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from controlplane.api.documents import ProblemOut
from controlplane.model.auto import PlanStatus, Traffic
from controlplane.model.plans import PlannablePool, PlanRequest, Quantiles, ServingPlan
from controlplane.model.resource import StatusPart
from controlplane.model.training_plans import MAX_POOLS, TrainingPlan, TrainingPlanRequest

JobState = Literal["queued", "running", "done", "failed"]
PlanKind = Literal["serving", "training"]

PLAN_EXAMPLE: dict[str, Any] = {
    "model": "llama-3.1-70b",
    "slo": {"ttftMs": {"p95": 800}, "tpotMs": {"p95": 40}},
    "workload": {"ratePerSecond": 4, "input": {"tokens": 1024}, "output": {"tokens": 256}},
    "pools": [{"name": "h100", "accelerator": "h100-sxm-80gb", "free": 16, "perNode": 8}],
}
TRAINING_EXAMPLE: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "seq": 8192,
    "globalBatch": 256,
    "pools": [
        {
            "name": "h100",
            "accelerator": "h100-sxm-80gb",
            "free": 64,
            "perNode": 8,
            "nic": "ib-ndr-400",
            "nicsPerNode": 8,
        }
    ],
    "fixed": {"recompute": ["none"], "tp": [1, 2, 4, 8]},
}


class PlanIn(PlanRequest):
    """One planning question. Traces are files and stay with the command line."""

    workload: Traffic = Field(description="Traffic.")
    pools: list[PlannablePool] = Field(
        default_factory=list,
        max_length=64,
        description="Where it may run: what-if pools, or the cluster's own, with what is free on them now, when empty.",
    )


class TrainingPlanIn(TrainingPlanRequest):
    """One question about training. Nothing is started."""

    pools: list[PlannablePool] = Field(
        default_factory=list,
        max_length=MAX_POOLS,
        description="Where it may run: what-if pools, or the cluster's own, with what is free on them now, when empty.",
    )


class PlanJobOut(StatusPart):
    """A planning question and what has become of it."""

    kind: PlanKind = Field(default="serving", description="What was asked about.")
    id: str = Field(description="Names the job in /v1/plans/{id}.")
    state: JobState = Field(description="queued, running, done or failed.")
    model: str = Field(description="Model asked for.")
    created: datetime = Field(description="When it was asked.")
    doing: str = Field(default="", description="What the planner is doing.")
    share: float = Field(default=0.0, description="Share of the work done, 0 to 1.")
    plan: ServingPlan | None = Field(default=None, description="The answer about serving, once done.")
    training: TrainingPlan | None = Field(default=None, description="The answer about training, once done.")
    problem: ProblemOut | None = Field(default=None, description="Why it failed.")


class PlanJobList(StatusPart):
    """The caller's jobs, newest first, without their answers."""

    items: list[PlanJobOut]


class ObservedLatency(StatusPart):
    """A latency as predicted and as the engines report it, ms; absent is unknown."""

    predicted: Quantiles = Field(description="Of the plan's best candidate.")
    observations: int | None = Field(default=None, description="Values in the span.")
    mean: float | None = Field(default=None, description="Observed mean, ms.")
    p50: float | None = Field(default=None, description="Observed median, ms, from the engines' buckets.")
    p95: float | None = Field(default=None, description="Observed 95th percentile, ms, from the engines' buckets.")
    mean_in_interval: bool | None = Field(
        default=None, description="Whether the observed mean lies within the predicted bounds."
    )


class PlanObserved(StatusPart):
    """What was planned beside what is measured. Predictions hold for the planned workload: see both rates."""

    plan: PlanStatus | None = Field(default=None, description="The plan in force.")
    reason: str = Field(description="Reason of the Planned condition; NotPlanned without one.")
    message: str = Field(default="", description="Its message.")
    since_s: float = Field(description="Span of the measurements, seconds.")
    pods: list[str] = Field(default_factory=list, description="Engine pods whose measurements are taken together.")
    ttft_ms: ObservedLatency | None = Field(default=None, description="Time to first token.")
    tpot_ms: ObservedLatency | None = Field(default=None, description="Time per output token.")
    planned_requests_per_s: float | None = Field(default=None, description="Rate planned for; absent for closed loops.")
    requests_per_s: float | None = Field(default=None, description="Rate observed, from first tokens.")
