"""The whole operator on a fake API server: a router's Deployment is made, awaited, made again, and goes with a change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.model import labels
from controlplane.model.routers import InstalledRouter
from controlplane.operator_process import build
from controlplane.settings import OperatorSettings
from controlplane.testing import FakeApiServer
from tests.unit.serving.test_auto_operator import Cluster, FakeService

ROUTERS = "apps/v1/deployments"
EXTENSION = (
    "inference.networking.k8s.io/v1/inferencepools",
    "inference.networking.x-k8s.io/v1alpha2/inferenceobjectives",
    "gateway.networking.k8s.io/v1/httproutes",
)
SETTINGS = OperatorSettings(
    leader_election=False,
    routers={
        "sglang-router": InstalledRouter(image="registry.example/sglang-router:1"),
        "gateway-inference-extension": InstalledRouter(gateway="gateways/inference", domain="llm.example"),
    },
)
CHOICE = {"accelerator": "l40s", "engine": "vllm"}


def routers(cluster: Cluster) -> list[dict[str, Any]]:
    return cluster.server.storage.objects(ROUTERS)


def serve(cluster: Cluster, kind: str, name: str) -> None:
    """What kubelet and Deployment controller would say."""
    ready = [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    status = (
        {"phase": "Running", "conditions": ready, "startTime": "2026-01-01T00:00:00Z"}
        if kind == "/v1/pods"
        else {"readyReplicas": 1}
    )
    cluster.server.storage.merge(kind, "prod", name, {"status": status}, status_only=True)
    if kind == "/v1/pods":
        cluster.server.storage.merge(kind, "prod", name, {"spec": {"nodeName": "node-a"}}, status_only=False)


async def _under_the_operator(walk: Callable[[Cluster], Awaitable[None]]) -> None:
    async with FakeApiServer() as server:
        cluster = Cluster(server)
        cluster.add_pool("a")
        async with KubeClient(ClusterAccess(server.url), timeout_s=5.0) as client:
            parts = await build(client, SETTINGS, planner=FakeService())
            task = asyncio.create_task(parts.manager.run())
            try:
                await walk(cluster)
            finally:
                parts.manager.stop()
                await task


async def test_a_router_is_made_awaited_made_again_and_taken_away() -> None:
    await _under_the_operator(_walk)


async def test_a_router_that_comes_later_gets_the_clients_when_it_answers() -> None:
    await _under_the_operator(_walk_behind)


async def _walk_behind(cluster: Cluster) -> None:
    def selector() -> dict[str, str]:
        return dict(cluster.server.storage.get("/v1/services", "prod", "chat")["spec"]["selector"])

    cluster.create(auto=None, explicit={"choices": [CHOICE]})
    await cluster.until(lambda: len(cluster.pods) == 1)
    serve(cluster, "/v1/pods", cluster.pods[0]["metadata"]["name"])
    await cluster.until(lambda: cluster.condition("Ready") == ("True", "AllReady"))
    direct = selector()

    cluster.change(routing={"router": "sglang-router"})
    await cluster.until(lambda: cluster.condition("Ready") == ("False", "RouterUnavailable"))
    assert selector() == direct, "clients are not sent to a router that does not answer"
    serve(cluster, ROUTERS, "chat-router")
    await cluster.until(lambda: selector() == {labels.ROUTER: "chat"})
    await cluster.until(lambda: cluster.condition("Ready") == ("True", "AllReady"))

    # A router that is gone for a moment does not send them back: who knows which replica has cached what.
    cluster.server.storage.merge(ROUTERS, "prod", "chat-router", {"status": {"readyReplicas": 0}}, status_only=True)
    await cluster.until(lambda: cluster.condition("Ready") == ("False", "RouterUnavailable"))
    assert selector() == {labels.ROUTER: "chat"}


async def _walk(cluster: Cluster) -> None:
    cluster.create(auto=None, explicit={"choices": [CHOICE]}, routing={"router": "sglang-router"})
    await cluster.until(lambda: len(cluster.pods) == 1 and len(routers(cluster)) == 1)
    (router,), uid = routers(cluster), cluster.pods[0]["metadata"]["uid"]
    assert router["metadata"]["name"] == "chat-router"
    assert router["metadata"]["ownerReferences"][0]["kind"] == "ServingDeployment"
    serve(cluster, "/v1/pods", cluster.pods[0]["metadata"]["name"])
    await cluster.until(lambda: cluster.condition("Ready") == ("False", "RouterUnavailable"))
    serve(cluster, ROUTERS, "chat-router")
    await cluster.until(lambda: cluster.condition("Ready") == ("True", "AllReady"))

    cluster.server.storage.delete(ROUTERS, "prod", "chat-router", {})
    await cluster.until(lambda: len(routers(cluster)) == 1)
    await cluster.until(lambda: cluster.condition("Ready") == ("False", "RouterUnavailable"))

    # This API server serves whatever is asked for, the extension's definitions, too.
    cluster.change(routing={"router": "gateway-inference-extension"})
    await cluster.until(
        lambda: not routers(cluster) and all(cluster.server.storage.objects(kind) for kind in EXTENSION)
    )
    await cluster.until(lambda: cluster.condition("Ready") == ("True", "AllReady"))
    assert cluster.status["endpoints"][0]["url"] == "http://chat.prod.llm.example"

    cluster.change(routing={"router": "service"})
    await cluster.until(lambda: not any(cluster.server.storage.objects(kind) for kind in EXTENSION))
    await cluster.until(lambda: cluster.condition("Ready") == ("True", "AllReady"))
    assert [pod["metadata"]["uid"] for pod in cluster.pods] == [uid]
