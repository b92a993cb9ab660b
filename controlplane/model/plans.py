"""Serving plans: what is asked of the planner and what it answers. The words that CLI, API, operator and tuner share."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from controlplane.model.choice import AcceleratorChoice, EngineName, Slo
from controlplane.model.cluster import FREE_NODES_MAX, FreeNodes
from controlplane.model.resource import DnsLabel, Part, StatusPart
from controlplane.model.routing import Routing

# Where the step times behind a number come from, best first:
# measured: tables of this engine, accelerator and quantisation. measured-bf16-attention: same, attention at bf16.
# borrowed: roofline times a utilisation measured elsewhere. sibling: tables of another engine on this accelerator.
# calibrated: fitted to runs on this very machine. roofline: shapes, peaks and bandwidths only.
Tier = Literal["measured", "measured-bf16-attention", "borrowed", "sibling", "calibrated", "roofline"]
Objective = Literal["goodput-per-accelerator", "goodput-per-watt", "goodput-per-cost"]
Role = Literal["aggregated", "prefill", "decode"]
CatalogueName = Annotated[str, Field(min_length=1, max_length=63)]


class Lengths(Part):
    """Token counts, uniform in [rangeRatio x tokens, tokens]."""

    tokens: int = Field(ge=1, le=2_000_000, description="Longest length, tokens.")
    range_ratio: float = Field(default=1.0, gt=0, le=1, description="Shortest length as a share of the longest.")


class Workload(Part):
    """The traffic a deployment is planned for: a rate or a number of clients, and lengths; or a trace file."""

    arrivals: Literal["poisson", "gamma", "burst", "closed", "trace"] = Field(
        default="poisson",
        description="poisson, gamma (with cv) and burst: open loop at ratePerSecond. closed: concurrency clients that "
        "send the next request when the last is answered. trace: a file (command line only).",
    )
    rate_per_second: float | None = Field(default=None, gt=0, le=1_000_000, description="Requests per second.")
    concurrency: int | None = Field(default=None, ge=1, le=100_000, description="Clients of a closed loop.")
    cv: float = Field(default=1.0, gt=0, le=100, description="Coefficient of variation of the gaps (gamma).")
    input: Lengths | None = Field(default=None, description="Prompt lengths.")
    output: Lengths | None = Field(default=None, description="Output lengths.")
    shared_prefix_tokens: int = Field(
        default=0, ge=0, le=2_000_000, description="Leading prompt tokens that all requests share."
    )
    trace: str | None = Field(default=None, max_length=4096, description="Trace file: lines of arrival, input, output.")

    @model_validator(mode="after")
    def _complete(self) -> "Workload":
        self._check_idle()
        if self.arrivals == "trace":
            if self.trace is None:
                raise ValueError("trace: name the file when arrivals is trace")
            return self
        if self.input is None or self.output is None:
            raise ValueError("input and output: both lengths are needed unless arrivals is trace")
        if self.arrivals == "closed" and self.concurrency is None:
            raise ValueError("concurrency: needed when arrivals is closed")
        if self.arrivals != "closed" and self.rate_per_second is None:
            raise ValueError("ratePerSecond: needed unless arrivals is closed or trace")
        return self

    def _check_idle(self) -> None:
        """What the arrivals would ignore is refused: whoever wrote it meant other arrivals."""
        if self.arrivals in ("closed", "trace") and self.rate_per_second is not None:
            other = "concurrency" if self.arrivals == "closed" else "trace"
            raise ValueError(
                f"ratePerSecond: has no effect beside {other} ({self.arrivals} arrivals); leave one of them out"
            )
        if self.arrivals != "closed" and self.concurrency is not None:
            other = "trace" if self.arrivals == "trace" else "ratePerSecond"
            raise ValueError(
                f"concurrency: has no effect beside {other} ({self.arrivals} arrivals); leave it out, or say arrivals: closed"
            )


class PlannablePool(Part):
    """Accelerators a plan may use. `free` counts accelerators; CPU pools count whole cores."""

    name: DnsLabel = Field(description="GPUPool, or a name of that kind for a what-if.")
    accelerator: CatalogueName = Field(description="Accelerator from the catalogue.")
    free: int = Field(ge=0, le=1_000_000, description="Accelerators a plan may take.")
    per_node: int | None = Field(default=None, ge=1, le=1024, description="Accelerators on one node.")
    largest_block: int | None = Field(
        default=None, ge=0, le=1024, description="Most of them free on one node. Not limited when absent."
    )
    free_nodes: list[FreeNodes] | None = Field(
        default=None,
        max_length=FREE_NODES_MAX,
        description="How much is free on how many nodes. Free accelerators count as a sum when absent.",
    )
    nic: str | None = Field(default=None, description="NIC class between nodes.")
    nics_per_node: int | None = Field(default=None, ge=0, le=64, description="NICs of that class on a node.")
    price_per_accelerator_hour: float | None = Field(default=None, ge=0, description="Unknown when absent, never zero.")
    currency: str = Field(default="USD", pattern="^[A-Z]{3}$", description="ISO 4217 code.")
    power_cap_w: float | None = Field(default=None, gt=0, description="Power limit set on each accelerator.")


class Allowed(Part):
    """What a plan may use. Quality is not for sale: precision below the checkpoint's own only from these lists."""

    accelerators: list[CatalogueName] = Field(
        default_factory=list, max_length=64, description="Accelerators from the catalogue. Every pool's when empty."
    )
    engines: list[EngineName] = Field(
        default_factory=list, max_length=8, description="Engines. Every installed one when empty."
    )
    quantizations: list[CatalogueName] = Field(
        default_factory=list, max_length=16, description="Weight formats. The checkpoint's own when empty."
    )
    kv_quantizations: list[CatalogueName] = Field(
        default_factory=list, max_length=8, description="KV cache formats. The model's own when empty."
    )
    disaggregated: bool = Field(default=False, description="Also plans with separate prefill and decode roles.")
    max_accelerators: int | None = Field(default=None, ge=1, le=1_000_000, description="Budget in accelerators.")
    max_watts: float | None = Field(default=None, gt=0, le=1e9, description="Budget in watts.")
    max_cost_per_hour: float | None = Field(
        default=None, gt=0, le=1e9, description="Budget in the pools' currency per hour."
    )


class PlanRequest(Part):
    """One planning question."""

    model: str = Field(min_length=1, max_length=200, description="Model from the catalogue or a repository id.")
    slo: Slo = Field(default_factory=Slo, description="Latency promise at percentiles.")
    workload: Workload = Field(description="Traffic.")
    pools: list[PlannablePool] = Field(min_length=1, max_length=64, description="Where it may run.")
    allowed: Allowed = Field(default_factory=Allowed, description="What it may use.")
    objective: Objective = Field(default="goodput-per-accelerator", description="What better means.")
    routing: Routing = Field(default_factory=Routing, description="How requests reach the replicas.")
    top: int = Field(default=3, ge=1, le=16, description="Plans to return.")
    seed: int = Field(default=0, ge=0, description="Seed of the simulated traffic.")


class Quantiles(StatusPart):
    """A latency in ms over the requests of the replay; `lo` and `hi` bound the true mean with 90 % confidence. All absent
    where no request has one: an output of one token has no TPOT."""

    mean: float | None = Field(default=None, description="Mean, ms.")
    p50: float | None = Field(default=None, description="Median, ms.")
    p90: float | None = Field(default=None, description="90th percentile, ms.")
    p95: float | None = Field(default=None, description="95th percentile, ms.")
    p99: float | None = Field(default=None, description="99th percentile, ms.")
    lo: float | None = Field(default=None, description="Lower bound of the true mean with 90 % confidence, ms.")
    hi: float | None = Field(default=None, description="Upper bound of the true mean with 90 % confidence, ms.")


class Provenance(StatusPart):
    """How a number came about."""

    tier: Tier = Field(description="Where the step times come from, from measured down to roofline.")
    source: str = Field(description="Table set or formula, with version.")
    query_mode: str | None = Field(default=None, description="Mode the tables were asked in.")
    notes: list[str] = Field(default_factory=list, description="Borrowed or missing parts, corrections applied.")


class Prediction(StatusPart):
    """What a deployment under the workload will do, per the replay."""

    ttft_ms: Quantiles = Field(description="Time to first token.")
    tpot_ms: Quantiles = Field(description="Time per output token after the first.")
    e2e_ms: Quantiles = Field(description="Time to the last token.")
    goodput_per_second: float = Field(description="Requests per second that meet the SLO.")
    slo_attained: float = Field(description="Share of requests that meet the SLO.")
    tokens_per_second_per_accelerator: float = Field(description="Output tokens per second and accelerator.")
    kv_fraction_peak: float | None = Field(
        default=None, description="Largest share of the KV cache in use; absent: its size is unknown."
    )
    memory_bytes_per_accelerator: int | None = Field(
        default=None, description="Weights, KV cache and engine on each accelerator, bytes; absent: unknown."
    )
    power_w: float | None = Field(default=None, description="Mean draw of all accelerators; None: unknown.")
    joules_per_output_token: float | None = Field(
        default=None, description="Energy of all accelerators for one output token; absent: unknown."
    )
    cost_per_million_output_tokens: float | None = Field(
        default=None, description="At the pools' prices; absent: unknown."
    )
    currency: str | None = Field(default=None, description="ISO 4217 code of the cost.")
    provenance: Provenance = Field(description="How the step times came about.")
    warnings: list[str] = Field(default_factory=list, description="What weakens the prediction.")


class PlannedRole(StatusPart):
    """Replicas of one shape in one pool, as planned."""

    role: Role = Field(description="What the replicas do; only aggregated ones are deployed.")
    pool: str = Field(description="GPUPool.")
    replicas: int = Field(description="Replicas planned there.")
    choice: AcceleratorChoice = Field(description="Accelerator and engine shape, as in spec.explicit.choices.")


class ServingCandidate(StatusPart):
    """One deployment that was weighed."""

    roles: list[PlannedRole]
    accelerators: int
    score: float | None = Field(default=None, description="The objective's value; None when it was not replayed.")
    capacity: float | None = Field(
        default=None, description="Largest load within the SLO, by its replicas' goodput: requests/s, or clients."
    )
    prediction: Prediction | None = None
    deployable: bool = Field(description="Whether this installation can run it.")
    reason: str = Field(description="Why it won, or the first thing it loses on.")
    message: str = Field(description="The numbers behind the reason.")


class CalibrationUsed(StatusPart):
    """The corrections that predictions are made with."""

    name: str = Field(max_length=200, description="What was fitted, on top of what.")
    digest: str = Field(max_length=64, description="Digest of what it says, however the file is laid out.")
    source: Literal["shipped", "installed", "given"] = Field(
        description="shipped with Trimtab, installed in this cluster, or given with the question."
    )
    problem: str | None = Field(
        default=None, max_length=1024, description="Why the installed one is not used; absent: nothing is wrong."
    )


class ServingPlan(StatusPart):
    """The answer: ranked candidates that can be run here, what was weighed and why the rest lost."""

    request: PlanRequest
    best: list[ServingCandidate]
    advisory: list[ServingCandidate] = Field(description="Better or notable, but not runnable on this installation.")
    why_not: list[ServingCandidate] = Field(description="The next best, each with what it loses on.")
    pareto: list[ServingCandidate] = Field(description="Goodput against accelerators, watts and cost.")
    weighed: int
    replayed: int
    elapsed_s: float
    cpu_s: float
    calibration: CalibrationUsed | None = Field(
        default=None, description="Corrections behind the predictions; absent: unknown."
    )
    remarks: list[str] = Field(
        default_factory=list, description="What the answer leaves open, as what was not searched."
    )
