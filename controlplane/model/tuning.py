"""Tuning: what is searched, what one trial found, and the decision. The words that tuner, store, API and operator share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from controlplane.model.resource import Part

PARAMETERS_MAX = 64
VALUES_MAX = 256
RULES_MAX = 64
# Whole numbers that JSON readers with doubles keep exact. Any number: the API server compares whole ones with a bound as
# 64-bit integers, so that a greater bound would refuse them all.
INT_MAX = 2**53
FLOAT_MAX = 1e18
# Processes of one setting that may differ by more say nothing of each other: no short run ends a trial then.
PACE_MAX = 1000.0

Value = bool | int | float | str
# One configuration: parameter name -> value. Parameters that a condition switches off are absent.
Setting = dict[str, Value]
ParameterName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Condition(Part):
    """A parameter counts only while another one has one of these values."""

    parameter: ParameterName = Field(description="Name of the other one.")
    values: list[Value] = Field(min_length=1, max_length=VALUES_MAX, description="Values of it.")


class _Parameter(Part):
    name: ParameterName = Field(description="Knob of the engine, shape field, or name in the command.")
    when: list[Condition] = Field(default_factory=list, max_length=8, description="All must hold; else it is left out.")
    changes_output: bool = Field(
        default=False, description="It can change the answers (precision, quantisation): needs the user's allowance."
    )


class IntParameter(_Parameter):
    """Whole numbers low..high, in steps; `log` searches their magnitude."""

    kind: Literal["int"] = Field(default="int", description="Whole numbers.")
    low: int = Field(ge=-INT_MAX, le=INT_MAX, description="Least value.")
    high: int = Field(ge=-INT_MAX, le=INT_MAX, description="Greatest value.")
    step: int = Field(default=1, ge=1, le=INT_MAX, description="Distance of neighbours.")
    log: bool = Field(default=False, description="Search the magnitude.")

    @model_validator(mode="after")
    def _ordered(self) -> IntParameter:
        if self.low > self.high:
            raise ValueError(f"{self.name}: low {self.low} is above high {self.high}")
        if self.log and (self.low < 1 or self.step != 1):
            raise ValueError(f"{self.name}: a log range begins at 1 or above and has step 1")
        return self


class FloatParameter(_Parameter):
    """Real numbers low..high; `log` searches their magnitude."""

    kind: Literal["float"] = Field(default="float", description="Real numbers.")
    low: float = Field(ge=-FLOAT_MAX, le=FLOAT_MAX, description="Least value.")
    high: float = Field(ge=-FLOAT_MAX, le=FLOAT_MAX, description="Greatest value.")
    log: bool = Field(default=False, description="Search the magnitude.")

    @model_validator(mode="after")
    def _ordered(self) -> FloatParameter:
        if self.low > self.high:
            raise ValueError(f"{self.name}: low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"{self.name}: a log range begins above 0")
        return self


class ChoiceParameter(_Parameter):
    """One of a list. `ordered` says that neighbours in the list are alike (8, 16, 32)."""

    kind: Literal["choice"] = Field(default="choice", description="One of a list.")
    values: list[Value] = Field(min_length=1, max_length=VALUES_MAX, description="The list.")
    ordered: bool = Field(default=False, description="Neighbours in the list are alike.")


Parameter = Annotated[IntParameter | FloatParameter | ChoiceParameter, Field(discriminator="kind")]


class SpaceRule(Part):
    """A relation between parameters that must hold, as an expression over their names (`a * b <= 8`,
    `not split or tokens >= 1`). Numbers, names, arithmetic, comparisons, and/or/not; nothing else."""

    expression: str = Field(min_length=1, max_length=512, description="True where a setting may be measured.")
    message: str = Field(
        min_length=1, max_length=512, description="What is wrong where it does not hold, and the way out."
    )


class Margin(Part):
    """What is known beforehand about feasibility, roughly: an expression that is above 0 where a setting should work
    (bytes left, sequences left). Settings below -slack are never measured; between, the sampler learns who is right."""

    expression: str = Field(min_length=1, max_length=512, description="Above 0 where a setting should work.")
    slack: float = Field(ge=0, le=FLOAT_MAX, description="How wrong the expression may be, in its own unit.")
    message: str = Field(min_length=1, max_length=512, description="What runs out where it is below 0.")


class SearchSpace(Part):
    """What is searched. `fixed` values hold in every trial."""

    parameters: list[Parameter] = Field(min_length=1, max_length=PARAMETERS_MAX, description="What varies.")
    rules: list[SpaceRule] = Field(default_factory=list, max_length=RULES_MAX, description="What must hold.")
    margins: list[Margin] = Field(default_factory=list, max_length=8, description="What should work, roughly.")
    fixed: dict[ParameterName, Value] = Field(
        default_factory=dict, max_length=PARAMETERS_MAX, description="Values that hold in every trial."
    )


class Verdict(StrEnum):
    """What one attempt showed. Only the first two are told to the sampler."""

    OK = "ok"
    INFEASIBLE = "infeasible"  # out of memory, crashed or starved by its own configuration
    INFRASTRUCTURE = "infrastructure"  # node, network, image, lease: says nothing about the configuration
    INVALID = "invalid"  # client and server disagree, the machine was disturbed: measured, not believed


class TrialState(StrEnum):
    """Life of a trial. LEASED has an owner, an expiry and an attempt; the last four are final."""

    WAITING = "waiting"
    LEASED = "leased"
    DONE = "done"
    INFEASIBLE = "infeasible"
    FAILED = "failed"  # attempts used up by infrastructure or invalid measurements
    CANCELLED = "cancelled"


class TrialPurpose(StrEnum):
    """Why a trial is measured. Only the first is told to the sampler."""

    SEARCH = "search"
    CONFIRM = "confirm"  # one of the best again, on a fresh seed and a fresh process
    BASELINE = "baseline"  # the configuration in use


class JobState(StrEnum):
    """Life of a tuning job. PAUSED gives out no trials, those under way end; the last three are final, except that an
    extended budget runs a DONE job again."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


# Kept true by a test against what is measured.
METRIC_NAMES = (
    "Of an engine: output_tokens_per_s, prompt_tokens_per_s, requests_per_s; goodput_per_s, attainment (with slo; also "
    "attainment_lo, attainment_hi); ttft_, tpot_, e2e_ and gap_max_ with mean_ms, p50_ms, p90_ms, p95_ms or p99_ms; "
    "failed_requests, requests, duration_s, lateness_p99_ms; on one machine energy_j, power_mean_w, joule_per_output_token. "
    "Of a command: what it prints."
)


class Objective(Part):
    """A metric to optimise."""

    metric: str = Field(
        min_length=1, max_length=63, description=f"Name with its unit, as output_tokens_per_s. {METRIC_NAMES}"
    )
    direction: Literal["maximize", "minimize"] = Field(default="maximize", description="Which way is better.")


class Limit(Part):
    """A metric that must stay within a bound: SLO percentiles, agreement with the reference, power."""

    metric: str = Field(
        min_length=1,
        max_length=63,
        description=f"Name with its unit, as ttft_p90_ms. {METRIC_NAMES} Where something that changes answers is searched: "
        "token_agreement, logprob_gap_mean.",
    )
    at_most: float | None = Field(default=None, ge=-FLOAT_MAX, le=FLOAT_MAX, description="Upper bound.")
    at_least: float | None = Field(default=None, ge=-FLOAT_MAX, le=FLOAT_MAX, description="Lower bound.")

    @model_validator(mode="after")
    def _one(self) -> Limit:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"{self.metric}: give exactly one of atMost and atLeast")
        return self


class Measurement(Part):
    """One valid measurement of one configuration: metric -> value, unknown is None. `metrics` names carry the unit
    (`ttft_p90_ms`, `goodput_per_s`); `definitions` is the version of the metric definitions they follow."""

    metrics: dict[str, float | None] = Field(max_length=256)
    definitions: str = Field(min_length=1, max_length=63)
    duration_s: float = Field(ge=0)
    cpu_s: float | None = None
    engine_version: str | None = None
    resolved: Setting = Field(default_factory=dict, description="The configuration the engine really ran with.")
    host: str = Field(default="", max_length=256, description="Fingerprint of the hardware that was leased.")
    load: str = Field(default="", max_length=128, description="Digest of the requests that were sent.")
    seed: int = 0
    share: float = Field(
        default=1.0, gt=0, le=1, description="Of a run's requests; below 1 a short run ended the trial: no decision."
    )


# What a sampler is told of a measurement beside the objectives.
TOLD_FIGURES = (
    "ttft_mean_ms", "ttft_p50_ms", "ttft_p90_ms", "tpot_mean_ms", "tpot_p50_ms", "tpot_p90_ms", "e2e_mean_ms",
    "requests_per_s",
)  # fmt: skip


class Told(Part):
    """What a sampler learns of one trial. `number` counts the study's trials from 0 in the order they were asked.
    Pending trials have neither measurement nor verdict; `dropped` ones ended without a result that says anything about
    their setting (infrastructure, cancelled): a sampler forgets them. `short` ones were cut short: never recommended, nor
    counted among the best."""

    number: int = Field(ge=0)
    setting: Setting
    verdict: Literal[Verdict.OK, Verdict.INFEASIBLE] | None = None
    values: list[float] = Field(default_factory=list, max_length=8, description="Objective values, in their order.")
    violation: list[float] = Field(
        default_factory=list, max_length=32, description="Per limit: above 0 is broken, in the metric's unit."
    )
    dropped: bool = False
    short: bool = False
    figures: dict[str, float] = Field(default_factory=dict, max_length=16, description="`TOLD_FIGURES` that are known.")
    seed: int = Field(default=0, description="Of the requests that were sent.")


class Proposal(Part):
    """What a sampler wants measured, and why (`random start`, `expected improvement 3.1 %, p(ok) 0.86`). `full`: whatever
    a short run says (settings to start with, the best once more)."""

    setting: Setting
    reason: str = Field(max_length=512)
    full: bool = False


class Bar(Part):
    """What a trial must be able to reach, or its short run ends it: decided when it is asked, the same for every attempt.
    `value`: first objective of the best setting measured in full within the limits, None where only limits count. `pace`:
    how many times as fast as in one process a setting may run in others, with 99 % confidence."""

    value: float | None = None
    pace: float = Field(ge=1, le=PACE_MAX)


class LeasedTrial(Part):
    """A trial in the hands of one worker. `attempt` is the fencing token: it grows with every lease. `tenant` is whom
    the job belongs to: on a cluster the namespace that its pods run in. Without a `bar` it is measured in full."""

    id: str
    job: str
    tenant: str
    number: int
    attempt: int
    setting: Setting
    seed: int
    purpose: TrialPurpose = TrialPurpose.SEARCH
    bar: Bar | None = None


class Outcome(Part):
    """What one attempt found. `reason` says in a person's words why it is not ok (the log's last lines, what was out of
    band); `samples` are the raw samples of its runs, as a Parquet file."""

    verdict: Verdict
    measurement: Measurement | None = None
    reason: str = Field(default="", max_length=4096)
    interrupted: bool = Field(
        default=False, description="Its worker was told to end: the attempt does not count as lost, within bounds."
    )
    waited: bool = Field(
        default=False, description="No hardware was free in its time: the attempt does not count as lost."
    )
    samples: bytes = Field(default=b"", max_length=16 * 2**20)

    @model_validator(mode="after")
    def _measured(self) -> Outcome:
        if self.verdict is Verdict.OK and self.measurement is None:
            raise ValueError("an ok attempt has a measurement")
        return self


class Renewal(Part):
    """Answer to a renewal: `ours` False means stop and leave no trace; `cancelled` means stop and tell so."""

    ours: bool
    cancelled: bool = False
