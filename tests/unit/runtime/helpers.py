"""A tiny kind for the runtime's tests."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager

import msgspec

from controlplane.kube import PODS, ClusterAccess, KubeClient
from controlplane.testing import FakeApiServer
from operators.runtime import Informer, ObjectMeta, Projection, Row, Wire, controller_of

COLLECTION = "/v1/pods"


class Status(Wire):
    phase: str = ""


class PodWire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    status: Status = msgspec.field(default_factory=Status)


class PodRow(Row):
    owner_uid: str
    phase: str


def project(wire: PodWire) -> PodRow:
    meta = wire.metadata
    owner = controller_of(meta.ownerReferences)
    return PodRow(
        meta.namespace, meta.name, meta.uid, meta.resourceVersion, owner.uid if owner else "", wire.status.phase
    )


def pod(name: str, phase: str = "Pending", owner: str = "", **meta: object) -> dict[str, object]:
    metadata: dict[str, object] = {"name": name, "namespace": "default", **meta}
    if owner:
        metadata["ownerReferences"] = [{"uid": owner, "kind": "X", "name": "x", "controller": True}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"phase": phase}}


def put(server: FakeApiServer, name: str, phase: str = "Pending", **more) -> dict[str, object]:
    return server.storage.put(COLLECTION, pod(name, phase, **more))


def informer(client: KubeClient, **options) -> Informer[PodWire, PodRow]:
    return Informer(client, PODS, Projection(PodWire, project), indexers={"owner": lambda p: (p.owner_uid,)}, **options)


@asynccontextmanager
async def running(server: FakeApiServer, **options):
    """An informer, synced, with the log of its changes: (old phase or None, new phase or None, name)."""
    async with KubeClient(ClusterAccess(server.url), timeout_s=5.0) as client:
        watched = informer(client, **options)
        seen: list[tuple[str | None, str | None, str]] = []
        watched.add_handler(lambda old, new: seen.append((old and old.phase, new and new.phase, (new or old).name)))
        task = asyncio.create_task(watched.run())
        try:
            async with asyncio.timeout(5.0):
                await watched.wait_synced()
                await until(lambda: watched.health.watches_total > 0)
            yield watched, seen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Wait for a condition that other tasks bring about; the limit only keeps a broken test from hanging."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)
