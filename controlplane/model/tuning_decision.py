"""What a tuning job hands over: the best configuration as confirmed, its gain over the one in use, and what mattered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from controlplane.model.resource import Part
from controlplane.model.tuning import Setting

CONFIDENCE = 0.9  # of every interval of a decision, two-sided
FRONT_MAX = 64

Comparison = Literal["better", "worse", "no-evidence", "no-baseline", "none-kept"]


class Interval(Part):
    """A mean and its interval. Ends are None where one run alone says nothing about spread, and where there is none: a gain
    over what may well be 0 has no end above."""

    mean: float
    lo: float | None = None
    hi: float | None = None
    runs: int = Field(ge=1)


class Judged(Part):
    """One configuration on fresh seeds and fresh processes. `number`: the search trial that found it, None for the
    configuration in use. `objectives` in the job's order; `kept`: every limit held on average and no run failed."""

    number: int | None = None
    setting: Setting
    objectives: list[Interval] = Field(default_factory=list, max_length=8)
    gain_pct: Interval | None = None
    kept: bool = True
    note: str = Field(default="", max_length=1024)


class Importance(Part):
    """Share of the objective's variance that a parameter explains over the space, 0 to 1."""

    parameter: str
    share: float


class TuningDecision(Part):
    """The document that a job's record keeps. `verdict` compares `best` with `baseline` on the first objective by the
    interval of the gain: better (above 0), worse (below 0), no-evidence (both ends), no-baseline, or none-kept (nothing
    confirmed kept the limits)."""

    verdict: Comparison
    message: str = Field(max_length=1024)
    confidence: float = CONFIDENCE
    best: Judged | None = None
    baseline: Judged | None = None
    confirmed: list[Judged] = Field(default_factory=list, max_length=16)
    front: list[int] = Field(default_factory=list, max_length=FRONT_MAX, description="Search trials no other beats.")
    importance: list[Importance] = Field(default_factory=list, max_length=64)
    importance_note: str = Field(default="", max_length=1024)
