"""`reconcile.runtime_cpu_us`: CPU of an operator process per trivial reconcile of objects that exist already.

A CustomResourceDefinition of its own with a status subresource, `_OBJECTS` objects created beforehand, one manager
with metrics, leader election and TLS as in production; each reconcile computes a status and applies it. The measured
process is this module run as a script: KUBECONFIG NAMESPACE OBJECTS.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from typing import Any

import msgspec
import uvloop

from controlplane.kube import CUSTOM_RESOURCE_DEFINITIONS, NAMESPACES, KubeClient, KubeError, Resource, load_access
from operators.runtime import (
    DONE,
    Condition,
    Controller,
    Informer,
    KubeLeaseStore,
    LeaderElector,
    Manager,
    ObjectMeta,
    Projection,
    Result,
    Row,
    RuntimeMetrics,
    SystemClock,
    Wire,
    Writer,
    set_condition,
)
from tests.perf.report import Emit, from_samples

_PROBES = Resource("bench.trimtab.dev", "v1", "runtimeprobes", "RuntimeProbe")
_OBJECTS = 1_000
_REPEATS = 3
_TARGET_US = 400


class _Spec(Wire):
    replicas: int = 0


class _Status(Wire):
    observedGeneration: int | None = None
    replicas: int = 0
    conditions: tuple[Condition, ...] = ()


class _Probe(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class _ProbeRow(Row):
    generation: int | None
    replicas: int
    status: _Status


def _project(wire: _Probe) -> _ProbeRow:
    meta = wire.metadata
    return _ProbeRow(
        meta.namespace,
        meta.name,
        meta.uid,
        meta.resourceVersion,
        meta.generation,
        wire.spec.replicas,
        wire.status,
    )


async def _operator(kubeconfig: str, namespace: str, objects: int) -> None:
    clock = SystemClock()
    metrics = RuntimeMetrics()
    manager = Manager(metrics=metrics)
    async with KubeClient(await load_access(kubeconfig), observer=metrics.observe_request) as client:
        probes = Informer(client, _PROBES, Projection(_Probe, _project), namespace=namespace)
        writer = Writer(client, "bench-runtime", manager.fence.check)
        reconciles = 0
        pending = objects
        finished = asyncio.Event()

        async def reconcile(key: str) -> Result:
            nonlocal reconciles, pending
            reconciles += 1
            row = probes.store.get(key)
            if row is None:
                return DONE
            ready = Condition("Ready", "True", "AllReady", f"{row.replicas} of {row.replicas}", row.generation)
            status = {
                "observedGeneration": row.generation,
                "replicas": row.replicas,
                "conditions": set_condition(row.status.conditions, ready, clock.utc_now()),
            }
            current = msgspec.to_builtins(row.status)
            body = await writer.apply_status(_PROBES, row.name, row.namespace, status, current=current)
            if body is not None:
                probes.absorb(body)
                pending -= 1
                if pending == 0:
                    finished.set()
            return DONE

        controller = Controller(
            "probe", reconcile, workers=8, metrics=metrics.controller("probe"), seeds=probes.store.all_keys
        )
        probes.add_handler(lambda old, new: controller.enqueue((new or old).key))  # type: ignore[union-attr]
        manager.add_informer(probes)
        manager.add_controller(controller)
        leases = KubeLeaseStore(client, namespace, "bench", call_timeout_s=2.0)
        manager.elect(LeaderElector(leases, f"bench-{os.getpid()}", manager.fence))
        running = asyncio.create_task(manager.run())
        await probes.wait_synced()
        cpu_s = time.process_time()
        await finished.wait()
        await asyncio.sleep(0.5)  # late events of our own writes belong to the cost
        cpu_s = time.process_time() - cpu_s
        manager.stop()
        await running
    report = {"cpu_s": cpu_s, "reconciles": reconciles, "writes": writer.writes_total}
    sys.stdout.write(json.dumps(report) + "\n")


async def _prepare(client: KubeClient, namespace: str) -> None:
    schema: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    definition = {
        "metadata": {"name": f"{_PROBES.plural}.{_PROBES.group}"},
        "spec": {
            "group": _PROBES.group,
            "scope": "Namespaced",
            "names": {"kind": _PROBES.kind, "plural": _PROBES.plural, "singular": "runtimeprobe"},
            "versions": [
                {
                    "name": _PROBES.version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }
    writer = Writer(client, "bench-runtime")
    await writer.apply(CUSTOM_RESOURCE_DEFINITIONS, definition)
    await writer.apply(NAMESPACES, {"metadata": {"name": namespace}})
    async with asyncio.timeout(60):
        while True:  # the definition is served a moment after it is accepted
            try:
                await client.list_page(_PROBES, namespace)
                break
            except KubeError:
                await asyncio.sleep(0.2)
    gate = asyncio.Semaphore(16)

    async def create(number: int) -> None:
        async with gate:
            metadata = {"name": f"probe-{number:04d}", "namespace": namespace}
            await writer.create(_PROBES, {"metadata": metadata, "spec": {"replicas": number}})

    await asyncio.gather(*(create(number) for number in range(_OBJECTS)))


async def _measure(kubeconfig: str) -> dict[str, Any]:
    namespace = f"bench-runtime-{secrets.token_hex(3)}"
    async with KubeClient(await load_access(kubeconfig)) as client:
        await _prepare(client, namespace)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.perf.runtime_cpu", kubeconfig, namespace, str(_OBJECTS)),
                stdout=subprocess.PIPE,
            )
            output, _ = await process.communicate()
        finally:
            await client.delete(NAMESPACES, namespace)
        if process.returncode != 0:
            raise RuntimeError(f"the measured operator ended with {process.returncode}")
        report: dict[str, Any] = json.loads(output)
        return report


async def _tidy(kubeconfig: str) -> None:
    async with KubeClient(await load_access(kubeconfig)) as client:
        await client.delete(CUSTOM_RESOURCE_DEFINITIONS, f"{_PROBES.plural}.{_PROBES.group}")


def run(emit: Emit, kubeconfig: str) -> None:
    """Emit the figure; part of `bench_reconcile`."""
    try:
        reports = [asyncio.run(_measure(kubeconfig)) for _ in range(_REPEATS)]
    finally:
        asyncio.run(_tidy(kubeconfig))
    costs_us = [report["cpu_s"] / report["reconciles"] * 1e6 for report in reports]
    sys.stderr.write(f"{reports}\n")
    emit(from_samples("reconcile", "runtime_cpu_us", costs_us, "us", _TARGET_US, "lower"))


if __name__ == "__main__":
    uvloop.run(_operator(sys.argv[1], sys.argv[2], int(sys.argv[3])))
