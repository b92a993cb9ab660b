"""Rows of the tables as the words of the floor, and the names of trials."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from controlplane.model.errors import UnknownName
from controlplane.model.tuning_records import (
    MeasuredAttempt,
    TrialCounts,
    TrialRecord,
    TuningEvent,
    TuningJobRecord,
)
from controlplane.model.tuning_stored import stored_spec

_ID_MAX = 63 + 1 + 6
_MADE = {"counts", "progress"}  # fields of a job that are no columns


def trial_id(job: str, number: int) -> str:
    """What a message carries."""
    return f"{job}/{number}"


def split_trial_id(trial: str) -> tuple[str, int]:
    """Job and number. Raises UnknownName for anything that `trial_id` did not make."""
    job, slash, number = trial.rpartition("/")
    if not slash or len(trial) > _ID_MAX or not (number.isascii() and number.isdigit()):
        raise UnknownName(f"{trial[:80]!r} is no trial", field="trial", limit="JOB/NUMBER")
    return job, int(number)


def job_of(row: Row[Any]) -> TuningJobRecord:
    names = row._mapping
    return TuningJobRecord.model_validate(
        {name: names[name] for name in TuningJobRecord.model_fields if name not in _MADE}
        | {
            "spec": stored_spec(names["spec"]),
            "counts": TrialCounts(**{name: names[name] for name in TrialCounts.model_fields}),
        }
    )


def trial_of(row: Row[Any]) -> TrialRecord:
    names = row._mapping
    return TrialRecord.model_validate({name: names[name] for name in TrialRecord.model_fields})


def measured_of(row: Row[Any]) -> MeasuredAttempt:
    names = row._mapping
    return MeasuredAttempt.model_validate({name: names[name] for name in MeasuredAttempt.model_fields})


def event_of(row: Row[Any]) -> TuningEvent:
    names = row._mapping
    return TuningEvent.model_validate({name: names[name] for name in TuningEvent.model_fields})
