"""The whole operator process, wired as in production, on the fake API server: with faults, quiet afterwards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.model import labels
from controlplane.operator_process import Operator, build
from controlplane.settings import OperatorSettings
from controlplane.testing import FakeApiServer, Fault
from tests.unit.runtime.helpers import until

SERVING = "trimtab.dev/v1alpha1/servingdeployments"
POOLS = "trimtab.dev/v1alpha1/gpupools"
PODS, NODES, SERVICES = "/v1/pods", "/v1/nodes", "/v1/services"
BUDGETS = "policy/v1/poddisruptionbudgets"
NS = "prod"
SETTINGS = OperatorSettings(leader_election=False, workers=4)


def node(name: str, gpus: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "pool": "h100"}},
        "status": {
            "allocatable": {"cpu": "64", "nvidia.com/gpu": str(gpus)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def serving(name: str, **spec: Any) -> dict[str, Any]:
    choice = {"accelerator": "h100-sxm-80gb", "engine": "vllm"}
    model = {"name": "llama-3.1-8b", "source": "pvc:weights/llama"}
    return {"metadata": {"name": name}, "spec": {"model": model, "explicit": {"choices": [choice]}, **spec}}


class Cluster:
    """The fake server with a scheduler and kubelets that obey at once."""

    def __init__(self, server: FakeApiServer, nodes: int, gpus: int) -> None:
        self.server = server
        self.storage = server.storage
        for number in range(nodes):
            self.storage.create(NODES, "", node(f"n{number}", gpus))
        self.storage.create(
            POOLS,
            "",
            {"metadata": {"name": "h100"}, "spec": {"nodeSelector": {"matchLabels": {"pool": "h100"}}}},
        )
        self.over_committed: list[str] = []
        self.gpus = gpus

    async def work(self) -> None:
        """Bind and start every new pod, until cancelled."""
        while True:
            for pod in self.storage.objects(PODS):
                if not pod.get("status"):
                    self._start(pod)
            await asyncio.sleep(0.005)

    def _start(self, pod: dict[str, Any]) -> None:
        spec = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        where = spec["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]
        name = pod["metadata"]["name"]
        if len([p for p in self.storage.objects(PODS) if p["spec"].get("nodeName") == where]) >= self.gpus:
            self.over_committed.append(name)
            return
        self.storage.merge(PODS, NS, name, {"spec": {"nodeName": where}}, status_only=False)
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        scheduled = {"type": "PodScheduled", "status": "True"}
        status = {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [ready, scheduled]}
        self.storage.merge(PODS, NS, name, {"status": status}, status_only=True)

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.storage.get(SERVING, NS, name).get("status", {})
        return found

    def reason(self, name: str) -> str:
        return str(self.status(name).get("reason", ""))

    def pods(self, name: str) -> list[str]:
        found = self.storage.objects(PODS)
        return [p["metadata"]["name"] for p in found if p["metadata"]["labels"][labels.DEPLOYMENT] == name]


@asynccontextmanager
async def operator(server: FakeApiServer) -> AsyncIterator[Operator]:
    async with KubeClient(ClusterAccess(server.url), timeout_s=2.0) as client:
        parts = await build(client, SETTINGS)
        running = asyncio.create_task(parts.manager.run())
        try:
            yield parts
        finally:
            parts.manager.stop()
            await running


@asynccontextmanager
async def cluster(nodes: int = 3, gpus: int = 2, seed: int = 0) -> AsyncIterator[Cluster]:
    async with FakeApiServer(seed=seed) as server:
        made = Cluster(server, nodes, gpus)
        working = asyncio.create_task(made.work())
        try:
            yield made
        finally:
            working.cancel()


async def test_from_apply_to_ready_in_five_writes() -> None:
    async with cluster() as made, operator(made.server) as parts:
        await until(lambda: parts.inventory.fleet.pool_names() == ["h100"])
        await until(lambda: not len(parts.pools.controller.queue))
        made.storage.create(SERVING, NS, serving("chat"))
        await until(lambda: made.reason("chat") == "AllReady")
        about = [(method, path) for method, path in made.server.writes() if f"/namespaces/{NS}/" in path]
        assert len(about) <= 5, about
        assert made.storage.get(SERVICES, NS, "chat")["spec"]["selector"][labels.LEADER] == "true"
        assert made.storage.get(BUDGETS, NS, "chat")["spec"]["maxUnavailable"] == 1


async def test_two_deployments_never_share_an_accelerator_and_the_urgent_one_goes_first() -> None:
    async with cluster(nodes=2, gpus=1) as made, operator(made.server):
        made.storage.create(SERVING, NS, serving("first", replicas=2))
        await until(lambda: made.reason("first") == "AllReady")
        made.storage.create(SERVING, NS, serving("low", priority="Low"))
        await until(lambda: made.reason("low") == "WaitingForQuota")
        made.storage.create(SERVING, NS, serving("high", priority="High"))
        await until(lambda: made.reason("high") == "WaitingForQuota")
        made.storage.merge(SERVING, NS, "first", {"spec": {"replicas": 1}}, status_only=False)
        await until(lambda: made.reason("high") == "AllReady")
        assert made.reason("low") == "WaitingForQuota"
        assert not made.over_committed


async def test_a_service_of_somebody_else_is_not_taken_over() -> None:
    async with cluster() as made:
        theirs = {"metadata": {"name": "chat"}, "spec": {"selector": {"app": "theirs"}}}
        made.storage.apply("/v1/services", NS, "chat", theirs, "them", force=False, status_only=False)
        theirs["spec"]["type"] = "LoadBalancer"  # type: ignore[index]
        made.storage.apply("/v1/services", NS, "chat", theirs, "them", force=False, status_only=False)
        async with operator(made.server):
            made.storage.create(SERVING, NS, serving("chat"))
            await until(lambda: made.pods("chat"))
            await until(lambda: ("PATCH", f"/api/v1/namespaces/{NS}/services/chat") in made.server.writes())
            await asyncio.sleep(0.05)
            assert made.storage.get(SERVICES, NS, "chat")["spec"]["type"] == "LoadBalancer"


async def test_pods_the_api_server_refuses_are_told_and_tried_with_pauses() -> None:
    async with cluster() as made, operator(made.server):
        made.server.faults = [Fault(method="POST", path_contains="/pods", status=403)]
        made.storage.create(SERVING, NS, serving("chat"))
        await until(lambda: made.reason("chat") == "PodsRefused")
        tries = [path for method, path in made.server.writes() if method == "POST" and path.endswith("/pods")]
        assert len(tries) == 1
        assert "next attempt" in made.status("chat")["conditions"][0]["message"]


@pytest.mark.parametrize("seed", [1, 2])
async def test_it_converges_while_a_third_of_everything_fails(seed: int) -> None:
    rng = random.Random(seed)
    async with cluster(nodes=8, gpus=4, seed=seed) as made:
        async with operator(made.server) as parts:
            made.server.faults = [
                Fault(probability=0.1, status=500),
                Fault(probability=0.1, drop_after=True),
                Fault(probability=0.1, delay_s=0.05),
                Fault(probability=0.05, status=429, retry_after_s=0),
            ]
            wanted = {f"d{number}": rng.randrange(1, 4) for number in range(8)}
            for name, replicas in wanted.items():
                made.storage.create(SERVING, NS, serving(name, replicas=replicas))
            for step in range(20):
                await asyncio.sleep(0.05)
                made.server.watches.end(clean=rng.random() < 0.5)
                name = rng.choice(sorted(wanted))
                if step % 4 == 0:
                    wanted[name] = rng.randrange(0, 4)
                    made.storage.merge(SERVING, NS, name, {"spec": {"replicas": wanted[name]}}, status_only=False)
                elif made.pods(name):
                    made.storage.delete(PODS, NS, rng.choice(made.pods(name)), {})
                if step == 10:
                    made.storage.compact()
            made.server.faults.clear()

            def converged() -> bool:
                return all(
                    len(made.pods(name)) == replicas == made.status(name).get("readyReplicas", 0)
                    for name, replicas in wanted.items()
                )

            await until(converged, 30.0)
            assert not made.over_committed
            queue = parts.serving.controller.queue
            await until(lambda: not (len(queue) or queue.processing_since_s))
            await asyncio.sleep(0.3)
            quiet = len(made.server.writes())
            for key in list(wanted):
                parts.serving.controller.enqueue(f"{NS}/{key}")
            await until(lambda: not (len(queue) or queue.processing_since_s))
            assert made.server.writes()[quiet:] == []
        async with operator(made.server) as again:
            queue = again.serving.controller.queue
            await until(lambda: len(made.server.requests) > 0 and again.serving.controller._running)
            await until(lambda: not (len(queue) or queue.processing_since_s))
            assert converged()
            assert [
                w for w in made.server.writes()[quiet:] if "servingdeployments" in w[1] or w[1].endswith("/pods")
            ] == []


async def test_details_of_those_who_wait_are_not_written_at_every_change() -> None:
    async with cluster(nodes=2, gpus=8) as made, operator(made.server) as parts:
        other = {"containers": [{"resources": {"requests": {"nvidia.com/gpu": "1"}}}], "nodeName": "n0"}
        for number in range(4):
            name = f"other{number}"
            made.storage.create(
                PODS, "other", {"metadata": {"name": name}, "spec": other, "status": {"phase": "Running"}}
            )
        made.storage.create(SERVING, NS, serving("small", replicas=2))
        await until(lambda: made.reason("small") == "AllReady")
        big = serving("big")
        big["spec"]["explicit"]["choices"][0]["tensorParallel"] = 8
        made.storage.create(SERVING, NS, big)
        await until(lambda: made.reason("big") == "Fragmented")
        assert made.status("big")["choices"][0]["free"] == 10
        queue, looks = parts.serving.controller.queue, parts.serving.waiting
        for number in range(4):
            made.storage.delete(PODS, "other", f"other{number}", {})
            await until(lambda free=11 + number: parts.inventory.fleet.totals("h100").free == free)  # type: ignore[misc]
            await until(lambda: not looks.due and not (len(queue) or queue.processing_since_s))
        path = f"/apis/trimtab.dev/v1alpha1/namespaces/{NS}/servingdeployments/big/status"
        assert len([wrote for wrote in made.server.writes() if wrote[1] == path]) == 1
