"""The first status of a new deployment, written by the whole operator on a fake API server."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.operator_process import build
from controlplane.settings import OperatorSettings
from controlplane.testing import FakeApiServer

DEPLOYMENTS = "trimtab.dev/v1alpha1/servingdeployments"
POOLS = "trimtab.dev/v1alpha1/gpupools"
_PATIENCE_S = 20.0


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    """One node of one pool, and an operator."""
    async with FakeApiServer() as made:
        amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]}
        node = {"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1", "pool": "a"}}}
        made.storage.put("/v1/nodes", {**node, "spec": {}, "status": status})
        pool = {"nodeSelector": {"matchLabels": {"pool": "a"}}, "accelerator": "l40s"}
        made.storage.put(POOLS, {"metadata": {"name": "a"}, "spec": pool})
        async with KubeClient(ClusterAccess(made.url), timeout_s=5.0) as client:
            parts = await build(client, OperatorSettings(leader_election=False))
            task = asyncio.create_task(parts.manager.run())
            yield made
            parts.manager.stop()
            await task


def create(server: FakeApiServer) -> None:
    choice = {"accelerator": "l40s", "engine": "vllm"}
    model = {"name": "llama-3.1-8b", "source": "pvc:models/llama"}
    body = {"metadata": {"name": "chat"}, "spec": {"model": model, "explicit": {"choices": [choice]}}}
    server.storage.create(DEPLOYMENTS, "prod", body)


def ready(server: FakeApiServer) -> str | None:
    """Status of the Ready condition."""
    status: dict[str, Any] = server.storage.get(DEPLOYMENTS, "prod", "chat").get("status", {})
    return next((item["status"] for item in status.get("conditions", ()) if item["type"] == "Ready"), None)


def statuses(server: FakeApiServer) -> int:
    return sum("servingdeployments" in path and method == "PATCH" for method, path in server.writes())


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not done():
            await asyncio.sleep(0.02)


async def test_pods_that_answer_at_once_are_told_of_in_one_write(server: FakeApiServer) -> None:
    def run_pod(change: Any) -> None:
        if change.collection == "/v1/pods" and change.type == "ADDED":
            running = copy.deepcopy(change.after)
            running["spec"]["nodeName"] = "n1"
            running["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            asyncio.get_running_loop().call_soon(server.storage.put, "/v1/pods", running)

    server.storage.listeners.append(run_pod)
    create(server)
    await until(lambda: ready(server) == "True")
    assert statuses(server) == 1


async def test_pods_that_take_their_time_are_told_of_all_the_same(server: FakeApiServer) -> None:
    create(server)
    await until(lambda: server.storage.objects("/v1/pods"))
    await until(lambda: ready(server) == "False")
    assert statuses(server) == 1
