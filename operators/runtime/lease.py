"""The Lease object as the elector sees it, and the requests that read and write it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from controlplane.kube import LEASES, KubeClient, NotFound
from operators.runtime.clock import rfc3339_micro

# The record is written with this and read as an opaque mark of change; a missing time is the beginning of time.
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """`holder` empty means released. Two equal records mean: not renewed in between."""

    holder: str
    duration_s: float
    acquired_at: datetime
    renewed_at: datetime
    transitions: int
    resource_version: str


class LeaseStore(Protocol):
    """Where the record lives. `create` and `replace` raise Conflict when somebody else was faster."""

    async def get(self) -> LeaseRecord | None: ...
    async def create(self, record: LeaseRecord) -> LeaseRecord: ...
    async def replace(self, record: LeaseRecord) -> LeaseRecord: ...


class _Spec(msgspec.Struct):
    holderIdentity: str | None = None
    leaseDurationSeconds: int | None = None
    acquireTime: datetime | None = None
    renewTime: datetime | None = None
    leaseTransitions: int | None = None


class _Meta(msgspec.Struct):
    resourceVersion: str = ""


class _Lease(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


_decode = msgspec.json.Decoder(_Lease).decode


class KubeLeaseStore:
    """A `coordination.k8s.io/v1` Lease. Calls are never repeated, end after `call_timeout_s`, and do not queue behind
    other requests of the same client: a renewal that waits for its turn under load is a lost lease."""

    def __init__(self, client: KubeClient, namespace: str, name: str, *, call_timeout_s: float) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._options: dict[str, Any] = {"timeout_s": call_timeout_s, "retry": False, "urgent": True}

    async def get(self) -> LeaseRecord | None:
        try:
            return _record(await self._client.get(LEASES, self._name, self._namespace, **self._options))
        except NotFound:
            return None

    async def create(self, record: LeaseRecord) -> LeaseRecord:
        return _record(await self._client.create(LEASES, self._body(record), self._namespace, **self._options))

    async def replace(self, record: LeaseRecord) -> LeaseRecord:
        body = self._body(record)
        return _record(await self._client.replace(LEASES, body, self._name, self._namespace, **self._options))

    def _body(self, record: LeaseRecord) -> dict[str, Any]:
        metadata = {"name": self._name, "namespace": self._namespace}
        if record.resource_version:
            metadata["resourceVersion"] = record.resource_version
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": record.holder,
                "leaseDurationSeconds": max(1, round(record.duration_s)),
                "acquireTime": rfc3339_micro(record.acquired_at),
                "renewTime": rfc3339_micro(record.renewed_at),
                "leaseTransitions": record.transitions,
            },
        }


def _record(body: bytes) -> LeaseRecord:
    lease = _decode(body)
    spec = lease.spec
    return LeaseRecord(
        holder=spec.holderIdentity or "",
        duration_s=float(spec.leaseDurationSeconds or 0),
        acquired_at=spec.acquireTime or _EPOCH,
        renewed_at=spec.renewTime or _EPOCH,
        transitions=spec.leaseTransitions or 0,
        resource_version=lease.metadata.resourceVersion,
    )
