"""One timed run of `bench_reconcile`: create N objects, wait until each is Ready, add up what everybody used."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from controlplane.kube import (
    DEPLOYMENTS,
    NAMESPACES,
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    SERVICES,
    KubeClient,
    NotFound,
    Resource,
)
from operators.runtime import Condition, Informer, ObjectMeta, Projection, Row, Wire, find_condition
from tests.perf import reconcile_shapes as shapes
from tests.perf.cluster_cpu import ClusterCpu

SERVING = Resource("trimtab.dev", "v1alpha1", "servingdeployments", "ServingDeployment")
POOLS = Resource("trimtab.dev", "v1alpha1", "gpupools", "GPUPool", namespaced=False)
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
_OPERATOR_NAMESPACE = "trimtab-system"
_CREATORS = 16
_READY_LIMIT_S = 600.0
_GONE_LIMIT_S = 600.0
_WRITES = re.compile(r'^rest_client_requests_total\{.*method="(POST|PUT|PATCH|DELETE)".*\} ([0-9.e+]+)$', re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """Wall seconds from the first request to the last object Ready; CPU seconds of each part meanwhile."""

    wall_s: float
    cpu_s: dict[str, float]
    operator_writes: float


class _Status(Wire):
    conditions: tuple[Condition, ...] = ()
    availableReplicas: int = 0


class _Wire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    status: _Status = msgspec.field(default_factory=_Status)


class _Row(Row):
    ready: bool


def _row(wire: _Wire) -> _Row:
    meta = wire.metadata
    ready = find_condition(wire.status.conditions, "Ready")
    done = wire.status.availableReplicas >= 1 or (ready is not None and ready.status == "True")
    return _Row(meta.namespace, meta.name, meta.uid, meta.resourceVersion, done)


class Bench:
    """The cluster side of the benchmark. `prepare` once, then `ours` and `native` in turn, `tidy` at the end."""

    def __init__(
        self, client: KubeClient, cpu: Callable[[list[str]], ClusterCpu], objects: int, namespaces: int
    ) -> None:
        self._client = client
        self._make_cpu = cpu
        self._objects = objects
        self._namespaces = namespaces
        self._operator_pods: list[dict[str, Any]] = []
        self._native: shapes.NativeShapes | None = None

    async def prepare(self) -> None:
        """Nodes, pool, and the shape our operator gives an object."""
        client = self._client
        self._operator_pods = await self._list(
            PODS, _OPERATOR_NAMESPACE, "app.kubernetes.io/name=trimtab,app.kubernetes.io/component=operator"
        )
        self._cpu = self._make_cpu([pod["metadata"]["uid"] for pod in self._operator_pods])
        await self._each(shapes.nodes(), self._apply_node)
        await self._apply(POOLS, shapes.pool())
        wanted = shapes.NODES * shapes.GPUS_PER_NODE

        async def pool_is_filled() -> bool:
            status = json.loads(await client.get(POOLS, shapes.POOL)).get("status", {})
            return bool(status.get("freeAccelerators", 0) >= wanted)

        await _until(pool_is_filled, 120.0, f"pool {shapes.POOL} to have {wanted} free accelerators")
        async with self._namespaces_for("shape", 1) as (name,):
            await client.create(SERVING, shapes.serving_deployment(name, "shape", "shape"), name)

            async def is_ready() -> bool:
                body = await client.get(SERVING, "shape", name)
                return bool(_row(msgspec.json.decode(body, type=_Wire)).ready)

            await _until(is_ready, 120.0, "one ServingDeployment to be Ready")
            pod = (await self._list(PODS, name, "trimtab.dev/deployment=shape"))[0]
            service = json.loads(await client.get(SERVICES, "shape", name))
            budget = json.loads(await client.get(POD_DISRUPTION_BUDGETS, "shape", name))
            self._native = shapes.NativeShapes(pod, service, budget)

    async def ours(self) -> Outcome:
        """N ServingDeployments."""

        async def create(namespace: str, name: str, run: str) -> None:
            await self._client.create(SERVING, shapes.serving_deployment(namespace, name, run), namespace)

        return await self._run(SERVING, create)

    async def native(self) -> Outcome:
        """N Deployments with Service and PodDisruptionBudget."""
        assert self._native is not None, "prepare first"
        native = self._native

        async def create(namespace: str, name: str, run: str) -> None:
            for resource, obj in zip(
                (DEPLOYMENTS, SERVICES, POD_DISRUPTION_BUDGETS), native.objects(namespace, name, run), strict=True
            ):
                await self._client.create(resource, obj, namespace)

        return await self._run(DEPLOYMENTS, create)

    async def tidy(self) -> None:
        """Remove the pool and the nodes."""
        await self._client.delete(POOLS, shapes.POOL)
        await self._each(shapes.nodes(), lambda node: self._gone(NODES, node["metadata"]["name"]))

    async def _run(self, watched: Resource, create: Callable[[str, str, str], Awaitable[None]]) -> Outcome:
        run = secrets.token_hex(3)
        async with self._namespaces_for(run, self._namespaces) as names:
            ready: set[str] = set()
            all_ready = asyncio.Event()

            def changed(old: _Row | None, new: _Row | None) -> None:
                if new is not None and new.ready:
                    ready.add(new.key)
                    if len(ready) == self._objects:
                        all_ready.set()

            informer = Informer(
                self._client, watched, Projection(_Wire, _row), label_selector=f"{shapes.BENCH_LABEL}={run}"
            )
            informer.add_handler(changed)
            watching = asyncio.create_task(informer.run())
            await informer.wait_synced()
            writes = await self._operator_writes()
            before, started_s = self._cpu.read_s(), time.perf_counter()
            numbers = range(self._objects)
            await self._each(numbers, lambda n: create(names[n % len(names)], f"obj-{n:04d}", run))
            try:
                async with asyncio.timeout(_READY_LIMIT_S):
                    await all_ready.wait()
            except TimeoutError:
                raise RuntimeError(
                    f"{len(ready)} of {self._objects} {watched.plural} Ready after {_READY_LIMIT_S:g} s"
                ) from None
            wall_s = time.perf_counter() - started_s
            after = self._cpu.read_s()
            writes = await self._operator_writes() - writes
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self._each(names, lambda name: self._client.request("DELETE", watched.path(name)))
            await self._pods_gone(run, names)
        cpu_s = {name: after[name] - before[name] for name in after}
        sys.stderr.write(f"{watched.plural}: {wall_s:.1f} s, CPU {json.dumps(cpu_s)}, operator writes {writes:g}\n")
        return Outcome(wall_s, cpu_s, writes)

    async def _operator_writes(self) -> float:
        total = 0.0
        for pod in self._operator_pods:
            path = f"{PODS.path(_OPERATOR_NAMESPACE, pod['metadata']['name'] + ':8080', 'proxy')}/metrics"
            text = (await self._client.request("GET", path)).decode()
            total += sum(float(value) for _, value in _WRITES.findall(text))
        return total

    @asynccontextmanager
    async def _namespaces_for(self, run: str, count: int) -> AsyncIterator[list[str]]:
        names = [f"bench-reconcile-{run}-{number:02d}" for number in range(count)]
        await self._each(names, lambda name: self._apply(NAMESPACES, {"metadata": {"name": name}}))

        async def accounts_exist() -> bool:
            return all([await self._list(SERVICE_ACCOUNTS, name, "", limit=1) for name in names])

        try:
            await _until(accounts_exist, 60.0, "the default service accounts")
            yield names
        finally:
            await self._each(names, lambda name: self._gone(NAMESPACES, name))

            async def gone() -> bool:
                present = {item["metadata"]["name"] for item in await self._list(NAMESPACES, None, "")}
                return present.isdisjoint(names)

            await _until(gone, _GONE_LIMIT_S, "the namespaces of a run to be gone")

    async def _pods_gone(self, run: str, names: list[str]) -> None:
        async def gone() -> bool:
            pods = [await self._list(PODS, name, "trimtab.dev/deployment", limit=1) for name in names]
            return not any(pods)

        await _until(gone, _GONE_LIMIT_S, f"the pods of run {run} to be gone")

    async def _apply(self, resource: Resource, obj: dict[str, Any]) -> None:
        body = {**obj, "apiVersion": resource.api_version, "kind": resource.kind}
        await self._client.apply(resource, body, obj["metadata"]["name"], field_manager="bench-reconcile")

    async def _apply_node(self, node: dict[str, Any]) -> None:
        name = node["metadata"]["name"]
        await self._apply(NODES, {key: value for key, value in node.items() if key != "status"})
        body = {**node, "metadata": {"name": name}}
        await self._client.apply(NODES, body, name, field_manager="bench-reconcile", subresource="status")

    async def _gone(self, resource: Resource, name: str) -> None:
        try:
            await self._client.delete(resource, name)
        except NotFound:
            return

    async def _list(
        self, resource: Resource, namespace: str | None, selector: str, limit: int | None = None
    ) -> list[dict[str, Any]]:
        body = await self._client.list_page(resource, namespace, label_selector=selector or None, limit=limit)
        items: list[dict[str, Any]] = json.loads(body)["items"]
        return items

    @staticmethod
    async def _each(items: Any, do: Callable[[Any], Awaitable[Any]]) -> None:
        gate = asyncio.Semaphore(_CREATORS)

        async def one(item: Any) -> None:
            async with gate:
                await do(item)

        await asyncio.gather(*(one(item) for item in items))


async def _until(condition: Callable[[], Awaitable[bool]], limit_s: float, what: str) -> None:
    deadline_s = time.monotonic() + limit_s
    while not await condition():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"waited {limit_s:g} s in vain for {what}")
        await asyncio.sleep(0.5)
