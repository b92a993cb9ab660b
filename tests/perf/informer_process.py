"""The measured process of `bench_cache` and `bench_watch`: one pod informer with what a serving controller reads.

Usage: python -m tests.perf.informer_process PORT PODS EVENTS. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from controlplane.kube import PODS, ClusterAccess, KubeClient
from operators.runtime import (
    Informer,
    Labels,
    OwnerReference,
    Projection,
    Row,
    Wire,
    WorkQueue,
    controller_of,
    intern,
    intern_labels,
)
from operators.runtime.memory import settle_memory


class _Labels(Wire):
    """The labels a serving controller reads, as fields: cheaper than a dict of all there are."""

    instance: str = msgspec.field(default="", name="app.kubernetes.io/instance")
    revision: str = msgspec.field(default="", name="trimtab.dev/revision")
    gang: str = msgspec.field(default="", name="trimtab.dev/gang")


class _Condition(Wire):
    type: str
    status: str
    reason: str = ""


class _Resources(Wire):
    requests: dict[str, str] = msgspec.field(default_factory=dict)


class _Container(Wire):
    resources: _Resources = msgspec.field(default_factory=_Resources)


class _Spec(Wire):
    nodeName: str = ""
    containers: list[_Container] = msgspec.field(default_factory=list)


class _ContainerStatus(Wire):
    restartCount: int = 0


class _Status(Wire):
    phase: str = ""
    podIP: str = ""
    conditions: list[_Condition] = msgspec.field(default_factory=list)
    containerStatuses: list[_ContainerStatus] = msgspec.field(default_factory=list)


class _Meta(Wire):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    deletionTimestamp: str | None = None
    labels: _Labels = msgspec.field(default_factory=_Labels)
    ownerReferences: list[OwnerReference] = msgspec.field(default_factory=list)


class PodWire(Wire):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class PodRow(Row):
    deleted_at: str | None
    instance: str
    revision: str
    gang: str
    owner_uid: str
    node: str
    phase: str
    pod_ip: str
    true_conditions: tuple[str, ...]
    requests: Labels
    restarts: int


_condition_sets: dict[tuple[str, ...], tuple[str, ...]] = {}


def project(wire: PodWire) -> PodRow:
    meta, spec, status = wire.metadata, wire.spec, wire.status
    owner = controller_of(meta.ownerReferences)
    labels = meta.labels
    true = tuple([c.type for c in status.conditions if c.status == "True"])
    return PodRow(
        intern(meta.namespace),
        meta.name,
        meta.uid,
        meta.resourceVersion,
        meta.deletionTimestamp,
        intern(labels.instance),
        intern(labels.revision),
        intern(labels.gang),
        intern(owner.uid) if owner else "",
        intern(spec.nodeName),
        intern(status.phase),
        status.podIP,
        _condition_sets.setdefault(true, true),
        intern_labels(spec.containers[0].resources.requests) if spec.containers else (),
        status.containerStatuses[0].restartCount if status.containerStatuses else 0,
    )


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def main(port: int, pods: int, events: int) -> None:
    async with KubeClient(ClusterAccess(f"http://127.0.0.1:{port}")) as client:
        informer = Informer(
            client,
            PODS,
            Projection(PodWire, project),
            indexers={"owner": lambda pod: (pod.owner_uid,), "node": lambda pod: (pod.node,)},
        )
        queue = WorkQueue()
        handled = 0
        all_handled = asyncio.Event()

        def changed(old: PodRow | None, new: PodRow | None) -> None:
            nonlocal handled
            handled += 1
            if handled == events:
                all_handled.set()
            row = new or old
            assert row is not None
            queue.add(row.owner_uid)

        informer.add_handler(changed)
        settle_memory()
        rss_before, cpu_before = _rss_bytes(), time.process_time()
        task = asyncio.create_task(informer.run())
        await informer.wait_synced()
        list_cpu_s = time.process_time() - cpu_before
        settle_memory()
        rss_bytes = _rss_bytes() - rss_before
        handled = 0
        all_handled.clear()
        if events == 0:
            all_handled.set()
        cpu_before, wall_before = time.process_time(), time.perf_counter()
        async with asyncio.timeout(600):
            await all_handled.wait()
        event_cpu_s = time.process_time() - cpu_before
        event_wall_s = time.perf_counter() - wall_before
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    report = {
        "pods": len(informer.store),
        "rss_bytes": rss_bytes,
        "list_cpu_s": list_cpu_s,
        "event_cpu_s": event_cpu_s,
        "event_wall_s": event_wall_s,
        "handled": handled,
        "queued": len(queue),
        "pid": os.getpid(),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    uvloop.run(main(*(int(argument) for argument in sys.argv[1:4])))
