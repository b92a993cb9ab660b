"""`ServingDeployment` as a cached row: spec and status stay JSON until a reconcile needs them."""

from __future__ import annotations

import msgspec

from operators.runtime import ObjectMeta, Row, Wire


class DeploymentWire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    status: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))


class DeploymentRow(Row):
    """One deployment; `created` in RFC 3339."""

    generation: int
    deleting: bool
    created: str | None
    spec: bytes
    status: bytes


def project_deployment(wire: DeploymentWire) -> DeploymentRow:
    """Flatten a decoded deployment. Never raises."""
    meta = wire.metadata
    return DeploymentRow(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resourceVersion,
        generation=meta.generation or 0,
        deleting=meta.deletionTimestamp is not None,
        created=meta.creationTimestamp,
        # Copies: a Raw would keep the whole page it was decoded from.
        spec=bytes(wire.spec),
        status=bytes(wire.status),
    )
