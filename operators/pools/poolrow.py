"""`GPUPool` as a cached row: a validated spec, or the reason why it cannot be read."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import ValidationError

from controlplane.model.cluster import GPUPoolSpec
from operators.runtime import Condition, ObjectMeta, Row, Wire

_ERRORS_SHOWN = 3


class PoolWire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    status: dict[str, Any] = msgspec.field(default_factory=dict)


class PoolRow(Row):
    """One pool. `spec` is None when it does not validate; `problem` says why. `status` as stored."""

    generation: int
    deleting: bool
    finalizers: tuple[str, ...]
    spec: GPUPoolSpec | None
    problem: str | None
    status: dict[str, Any]

    def conditions(self) -> tuple[Condition, ...]:
        """The stored conditions; unreadable ones are left out."""
        out = []
        for item in self.status.get("conditions") or ():
            try:
                out.append(msgspec.convert(item, Condition))
            except (msgspec.ValidationError, ValueError):
                continue
        return tuple(out)


def project_pool(wire: PoolWire) -> PoolRow:
    """Validate and flatten a decoded pool. Never raises."""
    meta = wire.metadata
    spec: GPUPoolSpec | None = None
    problem: str | None = None
    try:
        spec = GPUPoolSpec.model_validate_json(bytes(wire.spec) or b"{}")
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[:_ERRORS_SHOWN]
        problem = "; ".join(f"spec.{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in found)
    return PoolRow(
        namespace="",
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resourceVersion,
        generation=meta.generation or 0,
        deleting=meta.deletionTimestamp is not None,
        finalizers=tuple(meta.finalizers),
        spec=spec,
        problem=problem,
        status=wire.status,
    )
