"""The JSON documents of tuning jobs over HTTP."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import Field

from controlplane.api.problem import Problem
from controlplane.model.resource import DnsLabel, Part
from controlplane.model.tuning_decision import Importance
from controlplane.model.tuning_job import TRIALS_MAX, TuningSpec
from controlplane.model.tuning_records import TrialRecord, TuningJobRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR_MAX = 128
_ID = re.compile(r"[0-9a-z-]{1,63}")

EXAMPLE: dict[str, Any] = {
    "namespace": "default",
    "name": "tiny-throughput",
    "spec": {
        "target": {"kind": "engine", "engine": "openvino", "model": "/models/tiny.gguf"},
        "objectives": [{"metric": "output_tokens_per_s"}],
        "limits": [{"metric": "ttft_p90_ms", "atMost": 200}],
        "budget": {"trials": 30},
    },
}


class TuningJobIn(Part):
    """A job to be made, in a namespace."""

    namespace: DnsLabel
    name: DnsLabel
    spec: TuningSpec


class ExtendIn(Part):
    """The new total."""

    trials: int = Field(ge=1, le=TRIALS_MAX)


class CloneIn(Part):
    """The copy's name, in the same namespace."""

    name: DnsLabel


class ImportanceOut(Part):
    """What mattered, and how far to trust it."""

    items: list[Importance]
    note: str


class ParetoOut(Part):
    """Trials that keep the limits and that no other one beats in every objective."""

    objectives: list[str]
    items: list[TrialRecord]


def cursor_of(job: TuningJobRecord) -> str:
    """Where a page ended."""
    micros = (job.created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(f"{micros}:{job.id}".encode()).decode().rstrip("=")


def position_of(cursor: str | None) -> tuple[datetime, str] | None:
    """Raises Problem 422 for what `cursor_of` did not make."""
    if cursor is None:
        return None
    try:
        if len(cursor) > _CURSOR_MAX:
            raise ValueError
        text = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)).decode()
        micros, _, job = text.partition(":")
        if not _ID.fullmatch(job):  # PostgreSQL compares no text with NUL in it
            raise ValueError
        return _EPOCH + timedelta(microseconds=int(micros)), job
    except (ValueError, binascii.Error, OverflowError):
        raise Problem(
            422, "InvalidRequest", "cursor: was not made by this API.", field="cursor", hint="Take `next` of a page."
        ) from None
