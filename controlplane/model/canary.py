"""Canaries: a few replicas of a new revision beside the stable one, judged by their live metrics."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from controlplane.model.resource import Part, StatusPart

CanaryPhase = Literal["Starting", "Observing", "Promoted", "RolledBack"]
CanaryMetric = Literal["ttft", "tpot"]

ACTIVE: frozenset[CanaryPhase] = frozenset({"Starting", "Observing"})

# A pod template may be of any size; a status that large would weigh on every watch.
STABLE_SPEC_MAX = 128 * 1024


def _both() -> list[CanaryMetric]:
    return ["ttft", "tpot"]


class CanaryHold(Part):
    """For how long both revisions serve side by side."""

    least_seconds: int = Field(
        default=120, ge=1, le=86_400, description="No promotion before both were watched for so long."
    )
    most_seconds: int = Field(
        default=1800, ge=1, le=604_800, description="Watched for so long without evidence: see verdict.onNoEvidence."
    )
    window_seconds: int = Field(
        default=10, ge=1, le=600, description="Length of the equal windows in which both revisions are compared."
    )


class CanaryVerdict(Part):
    """What decides. Intervals hold 90 % and may be looked at after every window."""

    metrics: list[CanaryMetric] = Field(
        default_factory=_both,
        min_length=1,
        max_length=2,
        description="What is compared: mean time to first token, mean time per output token.",
    )
    not_worse_than_pct: float = Field(
        default=5.0,
        gt=0,
        le=1000,
        description="Promote when every interval ends below this increase; roll back as soon as one begins above it.",
    )
    must_be_better: bool = Field(
        default=False, description="Promote only when one metric is also shown better than today's."
    )
    most_more_errors_pct: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="How many percentage points more of its requests the canary may fail, where the engine counts them.",
    )
    on_no_evidence: Literal["RollBack", "Promote"] = Field(
        default="RollBack",
        description="What follows when hold.mostSeconds pass without a verdict. Without metrics, or where requests came to the canary and it answered none, it is always RollBack.",
    )


class Canary(Part):
    """A change of the pods first goes to a few replicas, and to all of them when it is shown to be no worse."""

    replicas: int = Field(
        default=1, ge=1, le=100, description="Replicas of the new revision, at most maxSurge + maxUnavailable of them."
    )
    hold: CanaryHold = Field(default_factory=CanaryHold, description="For how long both serve.")
    verdict: CanaryVerdict = Field(default_factory=CanaryVerdict, description="What decides.")


class PairSums(StatusPart):
    """Sums over paired windows, from which a verdict can go on after a restart. Weights w; means c (canary) and s (stable)
    over what both together had in the window."""

    pairs: int = Field(default=0, description="Windows in which both revisions had requests.")
    w: float = Field(default=0.0, description="Sum of w.")
    ww: float = Field(default=0.0, description="Sum of w squared.")
    wc: float = Field(default=0.0, description="Sum of w c.")
    ws: float = Field(default=0.0, description="Sum of w s.")
    cc: float = Field(default=0.0, description="Sum of (w c) squared.")
    ss: float = Field(default=0.0, description="Sum of (w s) squared.")
    cs: float = Field(default=0.0, description="Sum of w squared c s.")


class RatioPct(StatusPart):
    """How much more a metric of the canary is, percent; above 0 is slower."""

    change: float | None = Field(default=None, description="Of the means.")
    lo: float | None = Field(default=None, description="Lower end of the interval.")
    hi: float | None = Field(default=None, description="Upper end of the interval.")
    sums: PairSums = Field(default_factory=PairSums, description="What it is computed from.")


class SideCounts(StatusPart):
    """What one revision did while both were watched."""

    requests: float = Field(default=0.0, description="Requests with a first token in counted windows.")
    ended: float = Field(default=0.0, description="Requests that ended, where the engine counts failures among them.")
    errors: float = Field(default=0.0, description="Of these, failed.")
    per_replica: float = Field(default=0.0, description="Requests per replica: whether both carried the same load.")
    asked: float = Field(default=0.0, description="Requests that came, answered or not, where the engine tells.")
    answered: float = Field(default=0.0, description="Of these, with a first token.")
    waiting: float = Field(default=0.0, description="Requests without a first token when last looked at.")


class CanaryStatus(StatusPart):
    """The canary of the present change, or the last one."""

    candidate: str = Field(description="Hash of the change and of spec.rollout.canary: another one is a new canary.")
    revision: str = Field(description="Revision of its pods.")
    phase: CanaryPhase = Field(description="Starting, Observing, Promoted or RolledBack.")
    mode: Literal["SideBySide", "InTurns"] = Field(
        default="SideBySide", description="InTurns: with one replica the Service sends traffic to each in turn."
    )
    reason: str = Field(default="", description="One word: why the phase is what it is.")
    message: str = Field(default="", max_length=2048, description="The same with numbers.")
    begun_time: datetime = Field(description="When the change was seen.")
    since: datetime | None = Field(default=None, description="When both revisions first answered.")
    decided_time: datetime | None = Field(default=None, description="When it was promoted or rolled back.")
    watched_seconds: float = Field(default=0.0, description="For how long both were watched.")
    windows: int = Field(default=0, description="Windows watched, with traffic or without.")
    pages: int = Field(default=0, description="Of these, with metrics of both revisions.")
    silent_windows: int = Field(
        default=0,
        description="Windows since its last first token in which requests came to the canary and waited, and the stable revision answered.",
    )
    expected_seconds: float | None = Field(
        default=None, description="How much longer a verdict takes at the present spread and difference, about."
    )
    ttft_ratio_pct: RatioPct | None = Field(default=None, description="Time to first token.")
    tpot_ratio_pct: RatioPct | None = Field(default=None, description="Time per output token.")
    canary: SideCounts = Field(default_factory=SideCounts, description="What the new revision did.")
    stable: SideCounts = Field(default_factory=SideCounts, description="What the stable revision did.")


class StableRevision(StatusPart):
    """What the last completed rollout rendered its pods from; a canary keeps it, and a rollback goes back to it."""

    spec: str = Field(
        max_length=STABLE_SPEC_MAX, description="The fields of the spec that pods are rendered from, as JSON."
    )
    replicas: int | None = Field(default=None, description="With auto: replicas that were planned.")
    revisions: list[str] = Field(
        default_factory=list,
        max_length=64,
        description="Names of its pods' revisions: an operator of another version may render the same spec as others.",
    )
