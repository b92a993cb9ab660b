"""`TuningJob` as a cached row: spec and status stay JSON until a reconcile needs them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from pydantic import ValidationError

from controlplane.model.tuning_resource import TuningJobSpec
from operators.runtime import Condition, ObjectMeta, Row, Wire, find_condition

COMPLETE, FAILED, SUSPENDED_CONDITION = "Complete", "Failed", "Suspended"
_ERRORS_SHOWN = 3


class TuningWire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    status: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))


class TuningRow(Row):
    """One resource. `deleting` in RFC 3339."""

    generation: int
    deleting: str | None
    finalizers: tuple[str, ...]
    spec: bytes
    status: bytes

    def read(self) -> Read:
        """The spec, or why it cannot be read, and the status as stored."""
        spec: TuningJobSpec | None = None
        problem, newer = "", False
        try:
            spec = TuningJobSpec.model_validate_json(self.spec)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            newer = all(item["type"] == "extra_forbidden" for item in found)
            problem = "; ".join(
                f"spec.{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found[:_ERRORS_SHOWN]
            )
        status = msgspec.json.decode(self.status)
        return Read(spec, problem, newer, status if isinstance(status, dict) else {})


class Read(msgspec.Struct, frozen=True):
    """A resource's contents. `newer`: what cannot be read are fields that only a newer definition has; the API server
    writes their defaults into every object as soon as it has that definition."""

    spec: TuningJobSpec | None
    problem: str
    newer: bool
    status: dict[str, Any]

    @property
    def job_id(self) -> str | None:
        """A job was made once."""
        found = self.status.get("jobId")
        return found if isinstance(found, str) else None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The stored conditions; unreadable ones are left out."""
        out = []
        for item in self.status.get("conditions") or ():
            try:
                out.append(msgspec.convert(item, Condition))
            except (msgspec.ValidationError, ValueError):
                continue
        return tuple(out)

    @property
    def suspended(self) -> bool:
        """We have said that it is suspended."""
        found = find_condition(self.conditions, SUSPENDED_CONDITION)
        return found is not None and found.status == "True"


def project_tuning(wire: TuningWire) -> TuningRow:
    """Flatten a decoded resource. Never raises."""
    meta = wire.metadata
    return TuningRow(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resourceVersion,
        generation=meta.generation or 0,
        deleting=meta.deletionTimestamp,
        finalizers=tuple(meta.finalizers),
        # Copies: a Raw would keep the whole page it was decoded from.
        spec=bytes(wire.spec),
        status=bytes(wire.status),
    )


def moment(text: str | None) -> datetime | None:
    """RFC 3339 as the API server writes it."""
    return None if text is None else datetime.fromisoformat(text)
