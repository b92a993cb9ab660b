"""TuningJob resources and the jobs a store has for them, in a few words."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from controlplane.model.tuning import JobState, TrialPurpose, TrialState, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import SeenJob, TrialCounts, TrialRecord, TuningJobRecord
from controlplane.model.tuning_resource import TUNING_FINALIZER
from operators.tuning.plan import Sight
from operators.tuning.row import TuningRow

UID = "5e0c1b1a-0000-4000-8000-000000000001"
NAMESPACE, NAME = "lab", "search"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "target": {"kind": "command", "command": ["measure", "{a}"], "image": "registry.example/measure:1"},
    "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 100}]},
    "objectives": [{"metric": "value"}],
    "limits": [{"metric": "ttft_p90_ms", "atMost": 200}],
    "budget": {"trials": 20},
}


def resource(**spec: Any) -> dict[str, Any]:
    """A manifest; `spec` in camelCase."""
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {**SPEC, **spec},
    }


def row(
    status: dict[str, Any] | None = None, *, claimed: bool = True, deleting: str | None = None, **spec: Any
) -> TuningRow:
    """The resource as cached."""
    return TuningRow(
        NAMESPACE,
        NAME,
        UID,
        "1",
        generation=3,
        deleting=deleting,
        finalizers=(TUNING_FINALIZER,) if claimed else (),
        spec=json.dumps({**SPEC, **spec}).encode(),
        status=json.dumps(status or {}).encode(),
    )


def record(state: JobState = JobState.RUNNING, **more: Any) -> TuningJobRecord:
    """The job."""
    fields: dict[str, Any] = {
        "id": UID,
        "tenant": NAMESPACE,
        "name": NAME,
        "spec": TuningSpec.model_validate(SPEC),
        "state": state,
        "budget": 20,
        "counts": TrialCounts(asked=1, done=1) if state is JobState.DONE else TrialCounts(asked=1, leased=1),
        "generation": 1,
        "events": 1,
        "created_at": NOW,
    }
    return TuningJobRecord(**(fields | more))


def trial(number: int = 0, **more: Any) -> TrialRecord:
    """A measured one."""
    fields: dict[str, Any] = {
        "job": UID,
        "number": number,
        "state": TrialState.DONE,
        "purpose": TrialPurpose.SEARCH,
        "setting": {"a": number},
        "canonical": "c",
        "why": "",
        "seed": 0,
        "attempt": 1,
        "lost": 0,
        "asked_at": NOW,
        "verdict": Verdict.OK,
        "objectives": [float(number)],
        "violation": [-1.0],
    }
    return TrialRecord(**(fields | more))


def sight(
    found: TuningRow, job: TuningJobRecord | SeenJob | None = None, *, store: bool = True, now: datetime = NOW
) -> Sight:
    """What the plan sees."""
    seen = SeenJob(record=job) if isinstance(job, TuningJobRecord) else job
    return Sight(found, found.read(), seen, store, now)
