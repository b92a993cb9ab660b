"""`TuningJob`: a tuning job as a custom resource. Its spec is REST's with `suspend`; its status has the same size for 10
trials and for 10,000: counts and the best, never a list."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from controlplane.model.auto import Traffic
from controlplane.model.plans import Lengths
from controlplane.model.resource import Condition, StatusPart
from controlplane.model.tuning import PARAMETERS_MAX, Setting
from controlplane.model.tuning_decision import Comparison
from controlplane.model.tuning_job import CommandTarget, DeploymentTarget, EngineTarget, TuningSpec

# Keeps the resource until its job is cancelled and no trial of it is under way.
TUNING_FINALIZER = "trimtab.dev/tuning-job"

ResourceState = Literal["Pending", "Running", "Paused", "Done", "Failed", "Cancelled"]


class NamedDeployment(DeploymentTarget):
    """A ServingDeployment: its engine, model and first accelerator are what trials start with."""

    serves: None = Field(default=None, description="Written into the job, not into the resource.")


class TuningJobSpec(TuningSpec):
    """What is tuned, over which space, for what, within which budget. Fixed once created, except that suspend may change
    and budget.trials may be raised."""

    target: Annotated[EngineTarget | NamedDeployment | CommandTarget, Field(discriminator="kind")] = Field(
        description="What is tuned."
    )
    load: Traffic = Field(
        default=Traffic(arrivals="closed", concurrency=8, input=Lengths(tokens=256), output=Lengths(tokens=64)),
        description="Requests that engines are measured with.",
    )
    suspend: bool = Field(
        default=False,
        description="Give out no trials; those under way end. A job that has not begun is not begun; its budget.hours "
        "count from its beginning.",
    )

    def job(self) -> TuningSpec:
        """The same in the words of every other face."""
        written = self.model_dump(mode="json", by_alias=True, exclude={"suspend"}, exclude_none=True)
        return TuningSpec.model_validate(written)


class TrialTotals(StatusPart):
    """Trials by state. Those of the final confirmation count beside the budget."""

    budget: int = Field(default=0, description="Settings that the search may measure.")
    asked: int = Field(default=0, description="Trials so far.")
    waiting: int = Field(default=0, description="Of these, waiting for a worker or for hardware.")
    leased: int = Field(default=0, description="Under way.")
    done: int = Field(default=0, description="Measured.")
    infeasible: int = Field(default=0, description="Out of memory, crashed or starved by their own setting.")
    failed: int = Field(default=0, description="Given up: attempts used up by infrastructure or noise.")
    cancelled: int = Field(default=0, description="Ended with the job.")


class BestTrial(StatusPart):
    """The best setting by the first objective that kept every limit: so far, or as confirmed at the end."""

    trial: int | None = Field(default=None, description="Number of the trial that found it; absent: the one in use.")
    setting: Setting = Field(
        default_factory=dict, max_length=PARAMETERS_MAX * 2, description="Parameter to value; the widest are left out."
    )
    metric: str = Field(description="The first objective.")
    value: float | None = Field(default=None, description="Its value; once confirmed the mean of fresh runs.")
    lo: float | None = Field(default=None, description="Lower end of its interval; absent: not known.")
    hi: float | None = Field(default=None, description="Upper end of its interval.")
    confirmed: bool = Field(default=False, description="Measured again on fresh seeds and in fresh processes.")
    text: str = Field(default="", description="Value and metric in short.")


class Gain(StatusPart):
    """The confirmed best against the configuration in use, on the first objective."""

    verdict: Comparison = Field(
        description="better, worse, no-evidence (the interval has both signs), no-baseline, none-kept (nothing "
        "confirmed kept the limits)."
    )
    percent: float | None = Field(default=None, description="Mean gain.")
    lo: float | None = Field(default=None, description="Lower end of its interval.")
    hi: float | None = Field(default=None, description="Upper end of its interval.")
    confidence: float | None = Field(default=None, description="Of the interval, two-sided.")
    text: str = Field(default="", description="The gain with its interval in short, or the verdict.")


class TuningJobStatus(StatusPart):
    """How far the job is and what it found. Trials, events and the report are in the API under the job's id."""

    observed_generation: int = Field(default=0, description="The metadata.generation this status was computed from.")
    job_id: str | None = Field(default=None, description="Id under /v1/tuning-jobs; absent: no job has been made.")
    state: ResourceState = Field(
        default="Pending", description="Where the job stands; the Complete condition says why."
    )
    trials: str = Field(
        default="", description="Ended trials of the search out of its budget, and of the confirmation beside them."
    )
    counts: TrialTotals | None = Field(default=None, description="Trials by state.")
    best: BestTrial | None = Field(default=None, description="The best setting; absent: none has kept the limits yet.")
    gain: Gain | None = Field(default=None, description="What is gained by it; known when the job has ended.")
    message: str = Field(default="", description="The dominant reason in words, same as on the Complete condition.")
    report: str | None = Field(default=None, description="Path of the report in the API.")
    started_at: datetime | None = Field(default=None, description="When the job began.")
    ended_at: datetime | None = Field(default=None, description="When it ended.")
    conditions: list[Condition] = Field(default_factory=list, max_length=8, description="Standard conditions.")
