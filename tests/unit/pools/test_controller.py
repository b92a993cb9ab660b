"""The GPUPool controller: finalizer, deletion, writes only when something changed and not too often."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from controlplane.catalog import load
from controlplane.kube import Resource
from controlplane.model.labels import POOL_FINALIZER
from operators.pools.controller import NODE_PROJECTION, POOL_PROJECTION, SLICE_PROJECTION, PoolController, feed
from operators.pools.inventory import Inventory
from operators.pools.poolrow import PoolRow, PoolWire, project_pool
from operators.pools.rows import NodeView
from operators.runtime import DONE, Informer, Projection, Result, Writer
from operators.serving.rows import DeploymentRow, DeploymentWire, project_deployment
from operators.workloads.podview import PodView, project
from operators.workloads.podwire import PodWire

POOLS = Resource("trimtab.dev", "v1alpha1", "gpupools", "GPUPool", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
SLICES = Resource("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
DEPLOYMENTS = Resource("trimtab.dev", "v1alpha1", "servingdeployments", "ServingDeployment")


class Clock:
    """Time that moves when told."""

    now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def utc_now(self) -> datetime:
        return datetime.fromtimestamp(self.now_s, UTC)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        raise AssertionError("no timers here")

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s


class Api:
    """One stored pool; remembers what was written."""

    def __init__(self) -> None:
        self.pool: dict[str, Any] = {
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "1", "generation": 1},
            "spec": {"nodeSelector": {"matchLabels": {"kind": "cpu"}}, "accelerator": "cpu-x86"},
        }
        self.written: list[str] = []

    def answer(self, what: str) -> bytes:
        self.written.append(what)
        meta = self.pool["metadata"]
        meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
        return json.dumps(self.pool).encode()

    async def apply(self, resource: Resource, obj: dict[str, Any], *_: Any, **__: Any) -> bytes:
        self.pool["status"] = json.loads(json.dumps(obj["status"]))
        return self.answer("status")

    async def patch(self, resource: Resource, patch: dict[str, Any], *_: Any, **__: Any) -> bytes:
        self.pool["metadata"]["finalizers"] = patch["metadata"]["finalizers"]
        return self.answer("finalizers")


class Setup:
    def __init__(self) -> None:
        self.api, self.clock = Api(), Clock()
        client: Any = self.api
        self.pools = Informer(client, POOLS, POOL_PROJECTION)
        self.nodes = Informer(client, NODES, NODE_PROJECTION)
        self.pods = Informer(client, PODS, Projection(PodWire, project))
        self.slices = Informer(client, SLICES, SLICE_PROJECTION)
        self.inventory = Inventory(load())
        self.deployments = Informer(client, DEPLOYMENTS, Projection(DeploymentWire, project_deployment))
        feed(
            self.inventory,
            pools=self.pools,
            nodes=self.nodes,
            pods=self.pods,
            slices=self.slices,
            deployments=self.deployments,
        )
        self.deployments.upsert(DeploymentRow("ns", "d", "uid-of-d", "1", 1, False, None, b"{}", b"{}"), listed=True)
        self.queued: list[str] = []
        self.controller = PoolController(self.pools, self.inventory, Writer(client, "test"), clock=self.clock)
        self.controller.controller.enqueue = self.queued.append  # type: ignore[method-assign]
        self.see()

    def row(self) -> PoolRow:
        return project_pool(msgspec.json.decode(json.dumps(self.api.pool), type=PoolWire))

    def see(self) -> None:
        self.pools.upsert(self.row(), listed=False)

    async def reconcile(self) -> Result:
        result = await self.controller.reconcile("a")
        self.see()
        return result

    @property
    def ready(self) -> dict[str, Any]:
        return next(item for item in self.api.pool["status"]["conditions"] if item["type"] == "Ready")

    def node(self, name: str = "n1", **more: Any) -> None:
        labels = (("kind", "cpu"),)
        self.nodes.upsert(
            NodeView("", name, name, "1", labels, ready=True, allocatable=(("cpu", 4000),), **more), listed=False
        )

    def pod(self, **more: Any) -> PodView:
        view = PodView(
            "p",
            "ns",
            "u",
            "5",
            "Running",
            owner_uid="uid-of-d",
            deployment="d",
            node_name="n1",
            requests=(("cpu", 1000),),
            **more,
        )
        self.pods.upsert(view, listed=False)
        return view


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_finalizer_and_status_are_written_once(setup: Setup) -> None:
    setup.node()
    assert await setup.reconcile() == DONE
    assert setup.api.written == ["finalizers", "status"]
    assert setup.api.pool["metadata"]["finalizers"] == [POOL_FINALIZER]
    assert setup.ready["reason"] == "Ready"
    setup.clock.now_s += 5
    assert await setup.reconcile() == DONE
    assert setup.api.written == ["finalizers", "status"]


async def test_a_pool_without_nodes_says_which_requirement_failed(setup: Setup) -> None:
    setup.nodes.upsert(NodeView("", "x", "x", "1", (("kind", "gpu"),), ready=True), listed=False)
    await setup.reconcile()
    assert setup.ready["reason"] == "NoNodes"
    assert "kind=cpu" in setup.ready["message"] and "gpu (1)" in setup.ready["message"]


async def test_figures_are_written_at_most_once_a_second(setup: Setup) -> None:
    setup.node()
    await setup.reconcile()
    setup.queued.clear()
    setup.pod()
    assert setup.queued == ["a"]
    result = await setup.reconcile()
    assert result.requeue_after_s is not None and 0 < result.requeue_after_s <= 1
    setup.node("n2")
    assert setup.queued == ["a"]  # a wait is under way: further news adds nothing
    setup.clock.now_s += 1
    assert await setup.reconcile() == DONE
    assert (setup.api.pool["status"]["nodes"], setup.api.pool["status"]["freeAccelerators"]) == (2, 7)
    assert setup.api.written == ["finalizers", "status", "status"]


async def test_a_changed_spec_is_answered_at_once(setup: Setup) -> None:
    setup.node()
    await setup.reconcile()
    setup.api.pool["metadata"]["generation"] = 2
    setup.api.pool["spec"]["suspend"] = True
    setup.api.answer("user")
    setup.see()
    assert await setup.reconcile() == DONE
    assert (setup.ready["reason"], setup.api.pool["status"]["observedGeneration"]) == ("Suspended", 2)


async def test_deletion_waits_for_replicas_and_takes_nothing_new(setup: Setup) -> None:
    setup.node()
    pod = setup.pod()
    await setup.reconcile()
    setup.api.pool["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    setup.api.answer("user")
    setup.see()
    await setup.reconcile()
    blocked = [item for item in setup.api.pool["status"]["conditions"] if item["type"] == "DeletionBlocked"]
    assert [item["status"] for item in blocked] == ["True"]
    supply = setup.inventory.fleet.supply("a")
    assert supply is not None and supply.suspended
    setup.queued.clear()
    setup.pods.deleted(pod)
    assert setup.queued == ["a"]
    setup.clock.now_s += 1
    await setup.reconcile()
    assert setup.api.pool["metadata"]["finalizers"] == []


async def test_a_spec_that_cannot_be_read_is_a_condition_not_a_crash(setup: Setup) -> None:
    setup.api.pool["spec"] = {"spareNodes": -1, "nonsense": True}
    setup.api.answer("user")
    setup.see()
    await setup.reconcile()
    assert setup.ready["reason"] == "InvalidSpec"
    assert "spareNodes" in setup.ready["message"]


class Enough(Exception):
    pass


async def test_expired_reservations_give_their_room_back(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.node()
    setup.inventory.reserve("ns/p", "n1", 1000, expires_at_s=setup.clock.now_s + 7)
    free: list[int] = []

    async def sleep(delay_s: float) -> None:
        free.append(setup.inventory.fleet.totals("a").free)
        setup.clock.now_s += delay_s
        if len(free) == 3:
            raise Enough

    monkeypatch.setattr(setup.clock, "sleep", sleep)
    with pytest.raises(Enough):
        await setup.controller.expire_reservations()
    assert free == [3000, 3000, 4000]
