"""The GPUPool controller on a real API server, with nodes of its own that kwok keeps Ready."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from controlplane import catalog
from controlplane.kube import NODES, PODS, RESOURCE_SLICES, KubeClient, NotFound, load_access
from controlplane.operator_process import GPU_POOLS, SERVING_DEPLOYMENTS
from operators.pools.controller import NODE_PROJECTION, POOL_PROJECTION, SLICE_PROJECTION, PoolController, feed
from operators.pools.inventory import Inventory
from operators.runtime import Fence, Informer, Manager, Projection, Writer
from operators.serving.rows import DeploymentWire, project_deployment
from operators.workloads.podview import project
from operators.workloads.podwire import PodWire

pytestmark = pytest.mark.cluster
LIMIT_S = 60.0
NODES_MADE = 3


@dataclass
class Room:
    """Nodes, a pool and a controller that belong to one test."""

    client: KubeClient
    kubectl: Any
    id: str
    namespace: str

    @property
    def nodes(self) -> list[str]:
        return [f"{self.id}-{number}" for number in range(NODES_MADE)]

    def node(self, name: str, **spec: Any) -> dict[str, Any]:
        amounts = {"cpu": "64", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": "8"}
        taint = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
        labels = {
            "test-room": self.id,
            "kubernetes.io/arch": "amd64",
            "nvidia.com/gpu.product": "NVIDIA-L4",
            "topology.trimtab.dev/rack": f"r{name[-1]}",
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
            "spec": {"taints": [taint], **spec},
            "status": {"capacity": amounts, "allocatable": amounts},
        }

    def pool(self, **spec: Any) -> None:
        defaults: dict[str, Any] = {
            "nodeSelector": {"matchLabels": {"test-room": self.id}},
            "tolerations": [{"key": "kwok.x-k8s.io/node"}],
        }
        self.kubectl.apply(
            {
                "apiVersion": "trimtab.dev/v1alpha1",
                "kind": "GPUPool",
                "metadata": {"name": self.id},
                "spec": defaults | spec,
            }
        )

    def pod(self, name: str, gpus: int) -> None:
        container = {
            "name": "c",
            "image": "none",
            "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
        }
        api, kind = "trimtab.dev/v1alpha1", "ServingDeployment"
        metadata = {"name": "d", "namespace": self.namespace}
        explicit = {"choices": [{"accelerator": "l4", "engine": "vllm"}]}
        model = {"name": "llama-3.1-8b", "source": "pvc:models/llama"}
        spec = {"suspend": True, "model": model, "explicit": explicit}
        self.kubectl.apply({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec})
        uid = self.kubectl.json("get", "servingdeployment", "d", "-n", self.namespace)["metadata"]["uid"]
        labels = {"trimtab.dev/deployment": "d", "trimtab.dev/accelerator": "l4"}
        owner = {"apiVersion": api, "kind": kind, "name": "d", "uid": uid, "controller": True}
        self.kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": self.namespace,
                    "labels": labels,
                    "ownerReferences": [owner],
                },
                "spec": {"nodeName": self.nodes[0], "containers": [container], "terminationGracePeriodSeconds": 0},
            }
        )

    async def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(await self.client.get(GPU_POOLS, self.id)).get("status", {})
        return status

    async def until(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        status: dict[str, Any] = {}
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    status = await self.status()
                    if condition(status):
                        return status
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {LIMIT_S:g} s; last status: {json.dumps(status)[:3000]}") from None


def condition(status: dict[str, Any], kind: str = "Ready") -> dict[str, Any]:
    return next((item for item in status.get("conditions", []) if item["type"] == kind), {})


@pytest.fixture
async def room(cluster_env: dict[str, str], kubectl: Any, namespace: str) -> AsyncIterator[Room]:
    async with KubeClient(await load_access(cluster_env["KUBECONFIG"])) as client:
        made = Room(client, kubectl, f"room-{secrets.token_hex(3)}", namespace)
        kubectl.apply(*(made.node(name) for name in made.nodes))
        manager = Manager(fence=Fence.always_open())
        nodes = Informer(client, NODES, NODE_PROJECTION)
        pods = Informer(client, PODS, Projection(PodWire, project))
        pools = Informer(client, GPU_POOLS, POOL_PROJECTION, field_selector=f"metadata.name={made.id}")
        slices = Informer(client, RESOURCE_SLICES, SLICE_PROJECTION)
        deployments = Informer(client, SERVING_DEPLOYMENTS, Projection(DeploymentWire, project_deployment))
        for informer in (nodes, pods, pools, slices, deployments):
            manager.add_informer(informer)
        inventory = Inventory(catalog.load())
        feed(inventory, pools=pools, nodes=nodes, pods=pods, slices=slices, deployments=deployments)
        manager.add_controller(PoolController(pools, inventory, Writer(client, "trimtab-pools")).controller)
        running = asyncio.create_task(manager.run())
        try:
            yield made
        finally:
            kubectl.run("delete", "gpupool", made.id, "--wait=false", "--ignore-not-found", check=False)
            kubectl.run("delete", "pods", "--all", "-n", namespace, "--force", "--grace-period=0", check=False)
            kubectl.run(
                "patch", "gpupool", made.id, "--type=merge", "-p", '{"metadata":{"finalizers":[]}}', check=False
            )
            kubectl.run("delete", "node", *made.nodes, "--ignore-not-found", check=False)
            manager.stop()
            await running


async def test_a_pool_counts_its_nodes_and_follows_them(room: Room) -> None:
    room.pool(spareNodes=1)
    status = await room.until(lambda s: condition(s).get("reason") == "Ready" and s["readyNodes"] == NODES_MADE)
    assert (status["accelerator"], status["accelerators"], status["freeAccelerators"]) == ("l4", 24, 16)
    assert (status["nodes"], status["spareNodes"], status["largestFreeBlock"]) == (3, 1, 8)
    facts = {fact["fact"]: fact for fact in status["facts"]}
    assert facts["accelerator"]["source"] == "label nvidia.com/gpu.product"
    assert facts["rack"]["value"] == "r0, r1, r2"
    assert facts["nic"]["missingNodes"] == 3

    room.kubectl("cordon", room.nodes[1])
    room.kubectl("taint", "node", room.nodes[2], "trimtab.dev/quarantine=xid-79:NoSchedule")
    status = await room.until(lambda s: (s["readyNodes"], s["quarantinedNodes"]) == (1, 1))
    assert condition(status)["message"] == "1 of 3 nodes usable; 1 quarantined, 1 cordoned"
    room.kubectl("cordon", room.nodes[0])
    status = await room.until(lambda s: condition(s)["reason"] == "AllNodesUnusable")
    assert condition(status)["status"] == "False"
    room.kubectl("delete", "node", *room.nodes)
    status = await room.until(lambda s: condition(s)["reason"] == "NoNodes")
    assert f"test-room={room.id}" in condition(status)["message"]


async def test_pods_take_and_give_back_and_hold_the_pool(room: Room) -> None:
    room.pool()
    await room.until(lambda s: s.get("freeAccelerators") == 24)
    room.pod("p", gpus=3)
    status = await room.until(lambda s: s["freeAccelerators"] == 21)
    assert status["largestFreeBlock"] == 8
    room.kubectl("delete", "gpupool", room.id, "--wait=false")
    await room.until(lambda s: condition(s, "DeletionBlocked").get("status") == "True")
    await room.until(lambda s: condition(s).get("reason") == "Deleting")
    room.kubectl("delete", "pod", "p", "-n", room.namespace, "--force", "--grace-period=0")
    with pytest.raises(NotFound):
        await room.until(lambda s: False)


async def test_spec_mistakes_are_conditions(room: Room) -> None:
    room.pool(accelerator="h1000")
    status = await room.until(lambda s: condition(s).get("reason") == "AcceleratorUnknown")
    assert "h1000" in condition(status)["message"]
    mixed = room.node(room.nodes[0])
    mixed["metadata"]["labels"]["nvidia.com/gpu.product"] = "NVIDIA-L40S"
    room.kubectl.apply(mixed)
    room.kubectl("patch", "gpupool", room.id, "--type=merge", "-p", '{"spec":{"accelerator":null}}')
    status = await room.until(lambda s: condition(s).get("reason") == "AcceleratorsDiffer")
    assert "l4 (2), l40s (1)" in condition(status)["message"]
    assert status["observedGeneration"] == 2
