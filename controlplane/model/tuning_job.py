"""A tuning job as users write it: what is tuned, over which space, for what, within which budget, and how it is measured.

The same words serve `trimtab tune`, `POST /v1/tuning-jobs` and the TuningJob resource's spec.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from controlplane.model.choice import EngineName
from controlplane.model.plans import Lengths, Workload
from controlplane.model.resource import DnsLabel, Part
from controlplane.model.tuning import Limit, Objective, ParameterName, SearchSpace, Setting
from controlplane.model.tuning_training import TrainingRun

TRIALS_MAX = 10_000
OBJECTIVES_MAX = 3


class EngineTarget(Part):
    """An engine that the worker starts itself, once per trial."""

    kind: Literal["engine"] = Field(default="engine", description="An engine.")
    engine: EngineName = Field(description="Engine from the catalogue.")
    model: str = Field(min_length=1, max_length=1024, description="Model path or name, as the engine takes it.")
    shape: dict[str, int | str] = Field(default_factory=dict, max_length=16, description="Fixed shape fields.")
    accelerator: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="What trials run on, as the catalogue names it: with it the space knows the memory, and the predictor "
        "says where to look first.",
    )
    catalog_model: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="The model's name in the catalogue, where `model` does not say it.",
    )
    devices: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Accelerators that one trial may use: parallel degrees up to it are searched. Absent: those of the "
        "accelerator's usual node on a cluster, else 1.",
    )


class DeploymentTarget(Part):
    """A ServingDeployment: its engine, model and first accelerator are what trials start with."""

    kind: Literal["deployment"] = Field(default="deployment", description="A ServingDeployment.")
    name: DnsLabel = Field(description="Its name.")
    namespace: DnsLabel | None = Field(default=None, description="Its namespace: the job's own, also when absent.")
    serves: EngineTarget | None = Field(
        default=None, description="Engine, model, degrees and accelerator it had when the job was made; written then."
    )


class CommandTarget(Part):
    """A command that takes parameters as `{name}` and prints `metric=NUMBER` lines. Not run through a shell."""

    kind: Literal["command"] = Field(default="command", description="A command.")
    command: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(
        min_length=1, max_length=256, description="Program and arguments."
    )
    image: str | None = Field(default=None, max_length=512, description="Image of the pod (cluster only).")
    training: TrainingRun | None = Field(
        default=None,
        description="What it trains, if it is a training run: with it the job needs no space, what does not fit is not "
        "started, and the predictor says where to look first.",
    )


Target = Annotated[EngineTarget | DeploymentTarget | CommandTarget, Field(discriminator="kind")]


class TrialPods(Part):
    """Where trials run on a cluster: pods in the job's namespace. Nothing here counts for a job on a laptop."""

    service_account: DnsLabel = Field(
        default="default", description="Account of the pods; its token is mounted nowhere."
    )
    pools: list[DnsLabel] = Field(
        default_factory=list, max_length=16, description="Pools whose nodes measure; the target's own when empty."
    )
    beside_live: bool = Field(
        default=False, description="Measure on nodes that serve: disturbs what serves there, and is disturbed."
    )


class StartPoint(Part):
    """A setting that is measured before the sampler chooses."""

    setting: Setting = Field(description="Parameters of the space; others are dropped.")
    origin: str = Field(default="given", max_length=253, description="Where it is from.")


class Budget(Part):
    """Whichever ends first. Trials count every setting asked, not attempts."""

    trials: int = Field(default=40, ge=1, le=TRIALS_MAX, description="Settings measured in the search.")
    hours: float | None = Field(default=None, gt=0, le=24 * 30, description="Since the job began, pauses included.")


class Measuring(Part):
    """How one trial is measured, and when it is measured again."""

    requests: int = Field(default=200, ge=1, le=1_000_000, description="Requests of one run.")
    short_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Of a run's requests, after which a trial that cannot come near the best is ended; a quarter when "
        "absent, 0 measures all in full. Not for commands.",
    )
    warm_up_requests: int = Field(default=16, ge=0, le=100_000, description="Requests before it, not counted.")
    runs_min: int = Field(default=1, ge=1, le=64, description="Runs of a trial.")
    runs_max: int = Field(default=6, ge=1, le=64, description="Runs until an interval is narrow enough.")
    width_pct: float = Field(default=5.0, gt=0, le=100, description="Half-width of the 90 % interval that is enough.")
    confirm_top: int = Field(default=3, ge=1, le=16, description="Configurations measured again at the end.")
    confirm_runs: int = Field(
        default=7,
        ge=3,
        le=64,
        description="Rounds at most, each in fresh processes with requests of its own; fewer where the gain is clear. "
        "Two rounds would say nothing about spread.",
    )
    attempts: int = Field(default=3, ge=1, le=16, description="Attempts of a trial lost to infrastructure or noise.")
    timeout_s: float = Field(
        default=900.0, gt=0, le=86_400, description="Longest attempt; waiting for a node, a pod may take as long again."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Measuring:
        if self.runs_max < self.runs_min:
            raise ValueError(f"runsMax {self.runs_max} is below runsMin {self.runs_min}")
        return self


class RequestSlo(Part):
    """What one request must keep to count as good (`goodput_per_s`, `attainment`). Percentile promises are limits."""

    ttft_ms: float | None = Field(default=None, gt=0, le=3_600_000, description="Time to first token, ms.")
    tpot_ms: float | None = Field(default=None, gt=0, le=3_600_000, description="Time per output token, ms.")
    e2e_ms: float | None = Field(default=None, gt=0, le=86_400_000, description="Time to the last token, ms.")


class TuningSpec(Part):
    """What a tuning job is asked to do. `space` absent: the engine's own knobs, as the catalogue lists them."""

    target: Target = Field(description="What is tuned.")
    space: SearchSpace | None = Field(default=None, description="What is searched; the engine's own knobs when absent.")
    objectives: list[Objective] = Field(
        min_length=1, max_length=OBJECTIVES_MAX, description="What is optimised; the first one decides."
    )
    limits: list[Limit] = Field(default_factory=list, max_length=16, description="What must be kept.")
    slo: RequestSlo | None = Field(default=None, description="Needed where an objective or a limit is goodput.")
    load: Workload = Field(
        default_factory=lambda: Workload(
            arrivals="closed", concurrency=8, input=Lengths(tokens=256), output=Lengths(tokens=64)
        ),
        description="Requests that engines are measured with; 8 clients, 256 and 64 tokens when absent.",
    )
    budget: Budget = Field(default_factory=Budget, description="When the search ends.")
    measuring: Measuring = Field(default_factory=Measuring, description="How a trial is measured.")
    baseline: Setting = Field(
        default_factory=dict, description="The configuration in use; the engine's own when empty."
    )
    may_change_output: list[ParameterName] = Field(
        default_factory=list, max_length=16, description="Parameters that may change answers (precision, quantisation)."
    )
    start_with: list[StartPoint] = Field(
        default_factory=list, max_length=8, description="Settings measured first, after the one in use."
    )
    warm_start: bool = Field(
        default=True,
        description="Add winners of earlier jobs of this owner, engine, model and hardware to startWith when it is made.",
    )
    sampler: str = Field(
        default="default", max_length=63, description="default, random, grid, tpe, nsga2, or a plug-in."
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="The same seed and results give the same trials.")
    parallel: int = Field(default=1, ge=1, le=64, description="Trials under way at once, each on hardware of its own.")
    pods: TrialPods = Field(default_factory=TrialPods, description="Where trials run on a cluster.")
