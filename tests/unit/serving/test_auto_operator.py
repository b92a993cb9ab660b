"""The whole operator on a fake API server, with a planner that answers when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.model.errors import TrimtabError, Unsupported
from controlplane.model.plans import PlanRequest, ServingPlan
from controlplane.operator_process import build
from controlplane.settings import OperatorSettings
from controlplane.testing import FakeApiServer
from controlplane.testing.fake_planner import FakePlanner

DEPLOYMENTS = "trimtab.dev/v1alpha1/servingdeployments"
POOLS = "trimtab.dev/v1alpha1/gpupools"
SETTINGS = OperatorSettings(leader_election=False)
_PATIENCE_S = 20.0


class FakeService:
    """A `PlanningService` that holds its answers back until `go` is set."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.requests: list[PlanRequest] = []
        self.error: TrimtabError | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.closed = False

    async def plan(self, request: PlanRequest, *, progress: Callable[[str, float], None] | None = None) -> ServingPlan:
        self.requests.append(request)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return FakePlanner(self.options).plan(request)

    async def close(self) -> None:
        self.closed = True


class Cluster:
    """Nodes with eight L40S each, in pools of their own; nobody schedules pods."""

    def __init__(self, server: FakeApiServer) -> None:
        self.server = server

    def add_pool(self, name: str) -> None:
        labels = {"kubernetes.io/hostname": f"node-{name}", "pool": name}
        amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"}
        ready = [{"type": "Ready", "status": "True"}]
        status = {"capacity": amounts, "allocatable": amounts, "conditions": ready}
        node = {"metadata": {"name": f"node-{name}", "labels": labels}, "spec": {}, "status": status}
        self.server.storage.put("/v1/nodes", node)
        spec = {"nodeSelector": {"matchLabels": {"pool": name}}, "accelerator": "l40s"}
        self.server.storage.put(POOLS, {"metadata": {"name": name}, "spec": spec})

    def create(self, name: str = "chat", **spec: Any) -> None:
        full = {
            "model": {"name": "llama-3.1-8b", "source": "pvc:models/llama"},
            "auto": {},
            "workload": {"ratePerSecond": 2, "input": {"tokens": 512}, "output": {"tokens": 128}},
            **spec,
        }
        body = {"metadata": {"name": name}, "spec": {key: value for key, value in full.items() if value is not None}}
        self.server.storage.create(DEPLOYMENTS, "prod", body)

    def change(self, **spec: Any) -> None:
        self.server.storage.merge(DEPLOYMENTS, "prod", "chat", {"spec": spec}, status_only=False)

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.server.storage.get(DEPLOYMENTS, "prod", "chat").get("status", {}))

    def condition(self, kind: str) -> tuple[str, str]:
        found = {item["type"]: (item["status"], item["reason"]) for item in self.status.get("conditions", ())}
        return found.get(kind, ("", ""))

    @property
    def pods(self) -> list[dict[str, Any]]:
        return self.server.storage.objects("/v1/pods")

    async def until(self, done: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not done():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"did not settle: {self.status}") from None


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with FakeApiServer() as server:
        made = Cluster(server)
        made.add_pool("a")
        made.add_pool("b")
        yield made


@asynccontextmanager
async def operator(cluster: Cluster, service: FakeService) -> AsyncIterator[None]:
    async with KubeClient(ClusterAccess(cluster.server.url), timeout_s=5.0) as client:
        parts = await build(client, SETTINGS, planner=service)
        task = asyncio.create_task(parts.manager.run())
        try:
            yield
        finally:
            parts.manager.stop()
            await task


async def test_plans_then_places_then_stays(cluster: Cluster) -> None:
    service = FakeService(replicas=2)
    service.go.clear()
    async with operator(cluster, service):
        cluster.create()
        await cluster.until(lambda: cluster.condition("Planned") == ("False", "Planning"))
        assert cluster.condition("Ready") == ("False", "Planning")
        assert cluster.condition("Progressing") == ("True", "Planning")
        assert not cluster.pods
        service.go.set()
        await cluster.until(lambda: len(cluster.pods) == 2)
        await cluster.until(lambda: cluster.condition("Planned") == ("True", "Planned"))
        plan = cluster.status["plan"]
        assert [candidate["choices"][0]["pool"] for candidate in plan["candidates"]] == ["a", "b"]
        assert plan["candidates"][0]["prediction"]["ttftMs"]["p95"] == 350
        assert {pod["metadata"]["labels"]["trimtab.dev/pool"] for pod in cluster.pods} == {"a"}
        assert cluster.status["choices"][0]["reason"] == "Chosen"
        await asyncio.sleep(0.2)
    assert service.closed
    assert len(service.requests) == 1

    # Another process: the plan is in the status, its own pods do not count against it, nothing is planned again.
    second = FakeService(replicas=2)
    async with operator(cluster, second):
        await asyncio.sleep(0.5)
        assert cluster.condition("Planned") == ("True", "Planned")
        assert len(cluster.pods) == 2
    assert second.requests == []


async def test_a_failed_plan_says_why_and_starts_nothing(cluster: Cluster) -> None:
    service = FakeService()
    service.error = Unsupported(
        "weights take 3 accelerators", field="pools", limit="2", hint="allow fp8", code="TooBig"
    )
    async with operator(cluster, service):
        cluster.create()
        await cluster.until(lambda: cluster.condition("Planned") == ("False", "PlanFailed"))
        assert cluster.condition("Ready") == ("False", "PlanFailed")
        message = next(item["message"] for item in cluster.status["conditions"] if item["type"] == "Planned")
        assert message == (
            "pools: weights take 3 accelerators; allowed: 2; allow fp8; running replicas stay as they are"
        )
        assert not cluster.pods
    assert len(service.requests) == 1


async def test_running_replicas_are_left_alone_while_planning_and_when_it_fails(cluster: Cluster) -> None:
    service = FakeService(replicas=2)
    async with operator(cluster, service):
        cluster.create()
        await cluster.until(lambda: len(cluster.pods) == 2 and "plan" in cluster.status)
        before = {pod["metadata"]["uid"] for pod in cluster.pods}
        service.error = Unsupported("no shape keeps it", field="slo")
        # Another model: the shapes of the old plan mean nothing for it, so nothing may be rendered from them.
        cluster.change(model={"name": "llama-3.1-70b"})
        await cluster.until(lambda: cluster.condition("Planned") == ("False", "PlanFailed"))
        assert {pod["metadata"]["uid"] for pod in cluster.pods} == before
        assert cluster.status["plan"]["model"] == "llama-3.1-8b"
        assert [request.model for request in service.requests] == ["llama-3.1-8b", "llama-3.1-70b"]


async def test_two_that_share_pools_end_in_different_ones_and_stay(cluster: Cluster) -> None:
    """Six of eight accelerators each: planned against the same free room, both would count on pool a."""

    def pools_of(name: str) -> list[str]:
        own = [pod for pod in cluster.pods if pod["metadata"]["labels"]["trimtab.dev/deployment"] == name]
        return sorted(pod["metadata"]["labels"]["trimtab.dev/pool"] for pod in own)

    service = FakeService(replicas=6)
    async with operator(cluster, service):
        for name in ("chat", "other"):
            cluster.create(name)
        await cluster.until(lambda: len(cluster.pods) == 12)
        assert sorted([pools_of("chat"), pools_of("other")]) == [["a"] * 6, ["b"] * 6]
        plans = [
            cluster.server.storage.get(DEPLOYMENTS, "prod", name)["status"].get("plan") for name in ("chat", "other")
        ]
        await asyncio.sleep(0.5)
        assert sorted([pools_of("chat"), pools_of("other")]) == [["a"] * 6, ["b"] * 6]
        first = {plan["candidates"][0]["choices"][0]["pool"] for plan in plans if plan}
        assert first <= {"a", "b"}
    assert len(service.requests) == 2


async def test_a_mix_is_deployed_with_its_split(cluster: Cluster) -> None:
    class Mixing(FakeService):
        async def plan(self, request: PlanRequest, **options: Any) -> ServingPlan:
            plan = await super().plan(request, **options)
            one, other = (candidate.roles[0] for candidate in plan.best[:2])
            roles = [one.model_copy(update={"replicas": 2}), other.model_copy(update={"replicas": 3})]
            mix = plan.best[0].model_copy(update={"roles": roles, "accelerators": 5})
            return plan.model_copy(update={"best": [mix]})

    async with operator(cluster, Mixing()):
        cluster.create()
        await cluster.until(lambda: len(cluster.pods) == 5)
        where = sorted(pod["metadata"]["labels"]["trimtab.dev/pool"] for pod in cluster.pods)
        assert where == ["a", "a", "b", "b", "b"]


async def test_from_written_to_planned_nothing_goes_before_the_plan(cluster: Cluster) -> None:
    service = FakeService()
    service.go.clear()
    async with operator(cluster, service):
        cluster.create(auto=None, explicit={"choices": [{"accelerator": "l40s", "engine": "vllm", "pools": ["b"]}]})
        await cluster.until(lambda: len(cluster.pods) == 1)
        assert cluster.condition("Planned") == ("", "")
        cluster.change(explicit=None, auto={})
        await cluster.until(lambda: cluster.condition("Planned") == ("False", "Planning"))
        assert [pod["metadata"]["labels"]["trimtab.dev/pool"] for pod in cluster.pods] == ["b"]
        service.go.set()
        await cluster.until(lambda: {pod["metadata"]["labels"]["trimtab.dev/pool"] for pod in cluster.pods} >= {"a"})


async def test_a_plan_that_cannot_be_read_any_more_takes_no_replicas_along(cluster: Cluster) -> None:
    async with operator(cluster, FakeService(replicas=3)):
        cluster.create()
        await cluster.until(lambda: len(cluster.pods) == 3 and "plan" in cluster.status)
    # As after an upgrade or a rollback: another release's words.
    broken = {"plan": {"objective": "goodput-per-nothing"}}
    cluster.server.storage.merge(DEPLOYMENTS, "prod", "chat", {"status": broken}, status_only=True)
    service = FakeService(replicas=3)
    service.go.clear()
    before = {pod["metadata"]["uid"] for pod in cluster.pods}
    async with operator(cluster, service):
        await cluster.until(lambda: cluster.condition("Planned") == ("False", "Planning"))
        await asyncio.sleep(0.2)
        assert {pod["metadata"]["uid"] for pod in cluster.pods} == before
        service.go.set()
        await cluster.until(lambda: cluster.condition("Planned") == ("True", "Planned"))
        assert {pod["metadata"]["uid"] for pod in cluster.pods} == before
        cluster.change(replicas=0)
        await cluster.until(lambda: not [pod for pod in cluster.pods if "deletionTimestamp" not in pod["metadata"]])


async def test_from_planned_to_written_the_plan_goes(cluster: Cluster) -> None:
    service = FakeService()
    async with operator(cluster, service):
        cluster.create()
        await cluster.until(lambda: len(cluster.pods) == 1 and "plan" in cluster.status)
        cluster.change(auto=None, explicit={"choices": [{"accelerator": "l40s", "engine": "vllm", "pools": ["b"]}]})
        await cluster.until(lambda: not cluster.status.get("plan") and cluster.condition("Planned") == ("", ""))
        assert {pod["metadata"]["labels"]["trimtab.dev/pool"] for pod in cluster.pods} == {"a", "b"}  # surge first


async def test_a_suspended_deployment_shows_its_plan_and_starts_nothing(cluster: Cluster) -> None:
    service = FakeService()
    async with operator(cluster, service):
        cluster.create(suspend=True)
        await cluster.until(lambda: cluster.condition("Planned") == ("True", "Planned"))
        assert cluster.condition("Ready") == ("False", "Suspended")
        assert not cluster.pods


async def test_the_second_candidate_is_the_fallback(cluster: Cluster) -> None:
    cluster.server.storage.create(
        "/v1/pods",
        "prod",
        {
            "metadata": {"name": "holder"},
            "spec": {
                "nodeName": "node-a",
                "containers": [{"name": "x", "resources": {"requests": {"nvidia.com/gpu": "8"}}}],
            },
            "status": {"phase": "Running"},
        },
    )
    service = FakeService(replicas=1)
    # The planner does not know of the holder yet, as when somebody is faster: its best candidate has no room.
    original = FakePlanner.plan

    async with operator(cluster, service):

        async def blind(request: PlanRequest, *, progress: Any = None) -> ServingPlan:
            service.requests.append(request)
            pools = [pool.model_copy(update={"free": 8}) for pool in request.pools]
            return original(FakePlanner({}), request.model_copy(update={"pools": pools}))

        service.plan = blind  # type: ignore[method-assign]
        cluster.create()
        await cluster.until(lambda: len(cluster.pods) == 2)
        await cluster.until(lambda: bool(cluster.status.get("choices")))
    refused, chosen = cluster.status["choices"]
    assert (refused["index"], refused["pool"], refused["reason"]) == (0, "a", "WaitingForQuota")
    assert (chosen["index"], chosen["reason"], cluster.status["pools"][0]["pool"]) == (1, "Chosen", "b")


async def test_what_is_wrong_whatever_is_planned_is_told_first(cluster: Cluster) -> None:
    service = FakeService()
    async with operator(cluster, service):
        cluster.create(model={"name": "no-such-model", "source": "pvc:models/x"})
        await cluster.until(lambda: cluster.condition("Ready") == ("False", "UnknownName"))
    assert service.requests == []
