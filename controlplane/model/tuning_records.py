"""A tuning job, its trials and its events as the store keeps them and every face shows them."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from pydantic import Field

from controlplane.model.resource import Part
from controlplane.model.tuning import (
    TOLD_FIGURES,
    Bar,
    JobState,
    Limit,
    Measurement,
    Objective,
    Setting,
    Told,
    TrialPurpose,
    TrialState,
    Verdict,
)
from controlplane.model.tuning_job import TuningSpec


class TrialCounts(Part):
    """Trials by state; `asked` is their sum."""

    asked: int = 0
    waiting: int = 0
    leased: int = 0
    done: int = 0
    infeasible: int = 0
    failed: int = 0
    cancelled: int = 0


class TuningProgress(Part):
    """Trials by purpose. Those of the search count against the budget; those that confirm its best, the runs of the
    configuration in use among them, come beside it."""

    search_asked: int = 0
    search_ended: int = 0
    confirm_asked: int = 0
    confirm_ended: int = 0


class TuningJobRecord(Part):
    """One job. Its size does not grow with its trials. `generation` grows with what a user changes, `events` with
    everything that happens; `budget` is the trials allowed now."""

    id: str
    tenant: str
    name: str
    spec: TuningSpec
    state: JobState
    reason: str = ""
    message: str = ""
    budget: int
    counts: TrialCounts
    progress: TuningProgress | None = Field(default=None, description="Absent in lists.")
    generation: int
    events: int
    decision: dict[str, Any] | None = None
    cloned_from: str | None = None
    created_at: datetime
    ended_at: datetime | None = None


def progress_text(job: TuningJobRecord) -> str:
    """Ended trials of the search out of its budget, and what confirms beside them."""
    if job.progress is None:
        counts = job.counts
        return f"{counts.asked - counts.waiting - counts.leased} ended, budget {job.budget}"
    confirm = f", confirm {job.progress.confirm_ended}" if job.progress.confirm_asked else ""
    return f"search {job.progress.search_ended}/{job.budget}{confirm}"


class TrialRecord(Part):
    """One trial. `attempt` counts its leases, `lost` those that ended without a result. `objectives` and `violation`
    follow the job's objectives and limits. `share`: of a run's requests that they rest on, below 1 where a short run ended
    the trial for what stood in `bar`; None while it is not measured."""

    job: str
    number: int
    state: TrialState
    purpose: TrialPurpose
    setting: Setting
    canonical: str
    why: str
    seed: int
    attempt: int
    lost: int
    owner: str | None = None
    asked_at: datetime
    leased_at: datetime | None = None
    ended_at: datetime | None = None
    verdict: Verdict | None = None
    reason: str = ""
    objectives: list[float] | None = None
    violation: list[float] | None = None
    share: float | None = None
    bar: Bar | None = None

    @property
    def short(self) -> bool:
        """It was cut short: shown, told to the sampler, and never handed over."""
        return self.share is not None and self.share < 1

    @property
    def final(self) -> bool:
        """Nothing more will happen to it."""
        return self.state not in {TrialState.WAITING, TrialState.LEASED}


class MeasuredTrial(TrialRecord):
    """With the figures that a sampler is told beside its objectives."""

    figures: dict[str, float] = Field(default_factory=dict, max_length=len(TOLD_FIGURES))


class SeenJob(Part):
    """A job as one look finds it. `leader`: the search trial with the best first objective that kept every limit.
    `waiting`: the trial that has waited longest, where none is measured: for a worker, or leased for hardware."""

    record: TuningJobRecord
    leader: TrialRecord | None = None
    waiting: TrialRecord | None = None


class MeasuredAttempt(Part):
    """What one attempt measured, believed or not."""

    job: str
    number: int
    attempt: int
    verdict: Verdict
    measurement: Measurement
    at: datetime


class TuningEvent(Part):
    """Something that happened to a job. `id` grows by one with each, in the order they were committed."""

    job: str
    id: int
    at: datetime
    kind: str
    data: dict[str, Any] = Field(default_factory=dict)


class Ask(Part):
    """A trial to be measured: number, setting, the hash of what it resolves to, and why."""

    number: int = Field(ge=0)
    setting: Setting
    canonical: str = Field(min_length=1, max_length=64)
    why: str = Field(default="", max_length=512)
    seed: int = 0
    purpose: TrialPurpose = TrialPurpose.SEARCH
    bar: Bar | None = None


def objective_values(measurement: Measurement, objectives: list[Objective]) -> list[float] | str:
    """Values in the objectives' order, or the name of the first metric that was not reported."""
    out = []
    for objective in objectives:
        value = measurement.metrics.get(objective.metric)
        if value is None:
            return objective.metric
        out.append(value)
    return out


def violations(measurement: Measurement, limits: list[Limit]) -> list[float] | str:
    """By how much each limit is broken (above 0), in the metric's unit, or the first metric that was not reported."""
    out = []
    for limit in limits:
        value = measurement.metrics.get(limit.metric)
        if value is None:
            return limit.metric
        if limit.at_most is not None:
            out.append(value - limit.at_most)
        elif limit.at_least is not None:
            out.append(limit.at_least - value)
    return out


def figures_of(measurement: Measurement) -> dict[str, float]:
    """Those that are known."""
    known = ((name, measurement.metrics.get(name)) for name in TOLD_FIGURES)
    return {name: value for name, value in known if value is not None and math.isfinite(value)}


def told_of(trial: TrialRecord) -> Told:
    """The trial as a sampler learns of it."""
    if not trial.final:
        return Told(number=trial.number, setting=trial.setting)
    if trial.state is TrialState.DONE and trial.objectives is not None:
        return Told(
            number=trial.number,
            setting=trial.setting,
            verdict=Verdict.OK,
            values=trial.objectives,
            violation=trial.violation or [],
            short=trial.short,
            figures=trial.figures if isinstance(trial, MeasuredTrial) and not trial.short else {},
            seed=trial.seed,
        )
    if trial.state is TrialState.INFEASIBLE:
        return Told(number=trial.number, setting=trial.setting, verdict=Verdict.INFEASIBLE)
    return Told(number=trial.number, setting=trial.setting, dropped=True)
