"""Pages of tuning jobs and trials, as the API sends them and its clients read them."""

from __future__ import annotations

from pydantic import Field

from controlplane.model.resource import Part
from controlplane.model.tuning_records import MeasuredAttempt, TrialRecord, TuningJobRecord


class TuningJobList(Part):
    """Newest first. `next`: cursor of the next page."""

    items: list[TuningJobRecord]
    next: str | None = None


class TrialList(Part):
    """One page of trials."""

    items: list[TrialRecord]
    next: int | None = Field(default=None, description="Offset of the next page.")


class TrialOut(Part):
    """One trial and what each of its attempts measured."""

    trial: TrialRecord
    measured: list[MeasuredAttempt]
