"""What a TuningJob says about itself. Pure; the same size for 10 trials and for 10,000."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from controlplane.model.errors import TrimtabError
from controlplane.model.ports import STORE_DOWN, SUSPENDED
from controlplane.model.resource import rfc3339
from controlplane.model.tuning import JobState
from controlplane.model.tuning_records import SeenJob, TrialRecord, TuningJobRecord, progress_text
from operators.runtime import Condition, set_condition
from operators.tuning.best import best, gain
from operators.tuning.plan import Sight, leaving_late
from operators.tuning.row import COMPLETE, FAILED, SUSPENDED_CONDITION

# Longer than a trial waits for its message on a healthy installation: the sweep sends it again after 10 s.
PATIENCE = timedelta(seconds=30)
_MESSAGE_MAX_CHARS = 1024
# A running job's reason in the store while its trials find no hardware.
_TRIALS_WAIT = "TrialsWait"
# Code of the desk's refusal -> reason, message. The others pass as they are.
_REFUSED = {"AlreadyExists": "NameTaken", "IdempotencyGone": "JobDeleted"}
_STORE_DOWN = STORE_DOWN | {"StoreNotMigrated", "StoreTooNew"}
_STATES = {
    JobState.RUNNING: "Running",
    JobState.PAUSED: "Paused",
    JobState.DONE: "Done",
    JobState.FAILED: "Failed",
    JobState.CANCELLED: "Cancelled",
}


@dataclass(frozen=True, slots=True)
class Said:
    """Where the job stands, the one reason to show, and its words. `failed`: it will not complete by itself."""

    state: str
    reason: str
    message: str
    failed: bool = False
    unknown: bool = False


def status(sight: Sight, trouble: TrimtabError | None) -> dict[str, Any]:
    """The whole status as the API stores it. `trouble`: what the desk refused just now."""
    said = judge(sight, trouble)
    body: dict[str, Any] = {"observedGeneration": sight.row.generation, "state": said.state}
    if sight.seen is not None:
        body |= _of_job(sight.seen)
    else:
        # The store is away, or the job was deleted: what was seen last stays.
        kept = ("jobId", "trials", "counts", "best", "gain", "report", "startedAt", "endedAt")
        body |= {name: sight.read.status[name] for name in kept if name in sight.read.status}
    message = said.message[:_MESSAGE_MAX_CHARS]
    body["message"] = message
    body["conditions"] = _conditions(sight, said, message)
    return body


def judge(sight: Sight, trouble: TrimtabError | None) -> Said:
    """The dominant reason."""
    row, read, seen = sight.row, sight.read, sight.seen
    before = str(read.status.get("state") or "Pending")
    if trouble is not None and trouble.reason in _STORE_DOWN:
        return Said(before, trouble.reason, str(trouble), unknown=True)
    if row.deleting is not None:
        return _leaving(sight, before)
    if not sight.store:
        message = (
            "tuning jobs need a database, and this installation has none: set TRIMTAB_DATABASE_URL of the operator"
        )
        return Said(before, "NoDatabase", message, failed=True)
    if read.spec is None and not read.newer:
        return Said("Failed", "InvalidSpec", f"{read.problem}; make another TuningJob", failed=True)
    if seen is None and read.spec is None:
        message = (
            f"the definition is newer than this operator ({read.problem}): the job waits for the operator's update"
        )
        return Said(before, "OperatorTooOld", message, unknown=True)
    if seen is None:
        return _without_job(sight, trouble)
    if trouble is not None:
        return Said(_STATES[seen.record.state], trouble.reason, str(trouble), failed=True)
    return _of_record(seen, sight)


def waits_for(trouble: TrimtabError) -> str | None:
    """The reason where something that the spec names is not there, has no plan yet, or cannot be read: that may come, the
    job's spec is not at fault."""
    if trouble.field == "target.name" and trouble.reason in ("InvalidSpec", "Refused"):
        return "WaitingForDeployment"
    if trouble.field == "pods.serviceAccount" and trouble.reason == "InvalidSpec":
        return "WaitingForAccount"
    if (trouble.field or "").startswith("pods.pools") and trouble.reason == "UnknownName":
        return "WaitingForPool"
    return None


def _leaving(sight: Sight, before: str) -> Said:
    if sight.seen is None:
        return Said(before, "Deleting", "its job is gone; the resource goes next")
    leased = sight.seen.record.counts.leased
    late = " longer than they may take: it goes without them" if leaving_late(sight.row, sight.now) else ""
    return Said(_STATES[sight.seen.record.state], "Deleting", f"cancelled; {_trials(leased)} under way{late}")


def _without_job(sight: Sight, trouble: TrimtabError | None) -> Said:
    assert sight.read.spec is not None
    if sight.read.job_id is not None or (trouble is not None and trouble.reason == "IdempotencyGone"):
        message = "its job was deleted through the API and is not made anew; make another TuningJob to run it again"
        return Said("Cancelled", "JobDeleted", message, failed=True)
    if trouble is not None and (waits := waits_for(trouble)) is not None:
        return Said("Pending", waits, _with_root(trouble))
    if trouble is not None:
        name = sight.row.name
        message = (
            f"another tuning job of this namespace has the name {name!r}: delete that job (DELETE /v1/tuning-jobs/ID), or "
            "make this resource under another name"
            if trouble.reason == "AlreadyExists"
            else f"{_with_root(trouble)}; the spec is fixed: make another TuningJob"
        )
        return Said("Failed", _REFUSED.get(trouble.reason, trouble.reason), message, failed=True)
    if sight.read.spec.suspend:
        return Said("Pending", "Suspended", "spec.suspend: it begins when that is false")
    return Said("Pending", "Accepted", "its job is being made")


def _of_record(seen: SeenJob, sight: Sight) -> Said:
    record = seen.record
    state, counts = _STATES[record.state], record.counts
    spec = sight.read.spec
    wanted = record.budget if spec is None else spec.budget.trials
    more = f"; a budget of {wanted} has no effect any more: make another TuningJob" if wanted > record.budget else ""
    match record.state:
        case JobState.RUNNING:
            return _running(seen, sight.now)
        case JobState.PAUSED if (spec is not None and spec.suspend) or record.reason == SUSPENDED:
            why = f" (it was paused before: {record.reason}, {record.message})" if record.reason != SUSPENDED else ""
            return Said(
                state, "Suspended", f"spec.suspend: no trials are given out; {_trials(counts.leased)} under way{why}"
            )
        case JobState.PAUSED:
            hint = "resume it through the API, or set spec.suspend to true and back to false"
            return Said(state, _word(record.reason, "Paused"), f"{record.message or 'by request'}; {hint}")
        case JobState.DONE:
            message = "; ".join(filter(None, ((record.decision or {}).get("message"), record.message)))
            if not counts.done:
                return Said(state, "NothingMeasured", message, failed=True)
            return Said(state, "Done", message)
        case JobState.FAILED:
            return Said(state, _word(record.reason, "Failed"), f"{record.message}{more}", failed=True)
        case JobState.CANCELLED:
            return Said(state, "Cancelled", f"cancelled through the API{more}", failed=True)


def _running(seen: SeenJob, now: datetime) -> Said:
    record, counts = seen.record, seen.record.counts
    if not counts.asked and now - record.created_at >= PATIENCE:
        message = "no driver has asked its first trial yet: is `trimtab worker driver` running?"
        return Said("Running", "WaitingForDriver", message)
    waiting = seen.waiting
    if waiting is not None and now - _waits_since(waiting, record) >= PATIENCE:
        if record.reason == _TRIALS_WAIT:
            return Said("Running", "WaitingForHardware", record.message)
        message = f"trial {waiting.number} waits for a worker or for free hardware"
        last = f"; its last attempt: {waiting.reason}" if waiting.reason else ""
        return Said("Running", "WaitingForHardware", f"{message}{last}")
    failed = f" ({counts.failed} failed)" if counts.failed else ""
    last = (
        f"; the last attempt of trial {waiting.number}: {waiting.reason}"
        if waiting is not None and waiting.reason
        else ""
    )
    return Said("Running", "Running", f"{_trials(counts.leased)} under way, {_ended(record)} ended{failed}{last}")


def _waits_since(waiting: TrialRecord, record: TuningJobRecord) -> datetime:
    """A trial that waited in vain is leased anew every measuring.timeoutS: the first time counts."""
    if record.reason == _TRIALS_WAIT and waiting.attempt > 1:
        return waiting.asked_at
    return waiting.leased_at or waiting.asked_at


def _of_job(seen: SeenJob) -> dict[str, Any]:
    record, counts = seen.record, seen.record.counts
    body: dict[str, Any] = {
        "jobId": record.id,
        "trials": progress_text(record),
        "counts": {"budget": record.budget, **counts.model_dump(by_alias=True)},
        "report": f"/v1/tuning-jobs/{record.id}/report",
        "startedAt": rfc3339(record.created_at),
    }
    if record.ended_at is not None:
        body["endedAt"] = rfc3339(record.ended_at)
    for name, part in (("best", best(seen)), ("gain", gain(record))):
        if part is not None:
            body[name] = part.model_dump(mode="json", by_alias=True, exclude_none=True)
    return body


def _conditions(sight: Sight, said: Said, message: str) -> list[Mapping[str, Any]]:
    generation = sight.row.generation
    suspended = said.reason == "Suspended"
    complete: Any = "Unknown" if said.unknown else "True" if said.state == "Done" and said.reason == "Done" else "False"
    wanted = [
        Condition(COMPLETE, complete, said.reason, message, generation),
        Condition(FAILED, "True" if said.failed else "False", said.reason, "", generation),
        Condition(SUSPENDED_CONDITION, "True" if suspended else "False", said.reason, "", generation),
    ]
    if said.unknown:  # nobody can say: what was true before is not taken back
        wanted = wanted[:1]
    conditions = sight.read.conditions
    for condition in wanted:
        conditions = set_condition(conditions, condition, sight.now)
    return [msgspec.to_builtins(condition) for condition in conditions]


def _ended(record: TuningJobRecord) -> int:
    counts = record.counts
    return counts.done + counts.infeasible + counts.failed + counts.cancelled


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def _with_root(error: TrimtabError) -> str:
    return f"spec.{error}" if error.field is not None and not error.field.startswith("spec.") else str(error)


def _word(reason: str, otherwise: str) -> str:
    return reason if reason.isalnum() and reason[:1].isalpha() else otherwise
