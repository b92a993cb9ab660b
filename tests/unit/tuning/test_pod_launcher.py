"""Trial pods on a (fake) API server: one an attempt, older ones told to go, what is seen of them, the sweep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from controlplane.cluster_thread import ClusterThread, refused
from controlplane.kube import Forbidden, Unreachable
from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.ports import PODS_LATER
from controlplane.model.tuning import LeasedTrial, Objective, Verdict
from controlplane.model.tuning_job import CommandTarget, DeploymentTarget, TuningSpec
from controlplane.testing import FakeApiServer, Fault
from controlplane.tuning_pods import ClusterPod, ClusterPods
from controlplane.tuning_sweep import FoundPod, PodSweep, orphans
from operators.serving.render import RenderSettings
from operators.tuning.pod_names import Attempt
from operators.tuning.pod_seen import hardware_words, seen_of
from tests.unit.tuning.test_trial_pods import IMAGES, deployment, pool
from tuner.measure.engine.classify import verdict_of
from tuner.measure.engine.pod import ended_of

T = TypeVar("T")
NS = "team"


def spec(target: Any = None) -> TuningSpec:
    target = target or CommandTarget(command=["train", "{a}"], image="i:1")
    return TuningSpec(target=target, objectives=[Objective(metric="value")])


def leased(attempt: int = 1, number: int = 0, **fields: Any) -> LeasedTrial:
    given = {"setting": {"a": 3}, **fields}
    return LeasedTrial(id=f"j/{number}", job="j", tenant=NS, number=number, attempt=attempt, seed=1, **given)


class Lab:
    def __init__(self, server: FakeApiServer, cluster: ClusterThread) -> None:
        self.server, self.cluster = server, cluster
        self.pods = ClusterPods(cluster, RenderSettings(), "trimtab-system")

    async def do(self, what: Callable[[], T]) -> T:
        """As a worker's thread would."""
        return await asyncio.to_thread(what)

    def names(self) -> list[str]:
        return sorted(item["metadata"]["name"] for item in self.server.storage.objects("/v1/pods"))


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with FakeApiServer() as server:
        named = {"clusters": [{"name": "c", "cluster": {"server": server.url}}], "users": [{"name": "u", "user": {}}]}
        chosen = {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **named, **chosen}))
        cluster = await asyncio.to_thread(ClusterThread, str(path))
        yield Lab(server, cluster)
        await asyncio.to_thread(cluster.close)


async def test_a_training_command_is_told_what_follows_from_its_setting(lab: Lab) -> None:
    run = {"model": "qwen3-8b", "accelerator": "h100", "devices": 8, "globalBatch": 64, "sequenceTokens": 4096}
    words = ["train", "{tensorParallel}", "{dataParallel}", "{accumulation}", "{globalBatch}"]
    target = CommandTarget.model_validate({"command": words, "image": "i:1", "training": run})
    setting = {"tensorParallel": 2, "microBatch": 4}
    await lab.do(lambda: lab.pods.start(leased(setting=setting), spec(target)))
    made = lab.server.storage.objects("/v1/pods")[0]
    assert made["spec"]["containers"][0]["command"] == ["train", "2", "4", "4", "64"]


async def test_a_second_create_makes_no_second_pod(lab: Lab) -> None:
    first = await lab.do(lambda: lab.pods.start(leased(), spec()))
    second = await lab.do(lambda: lab.pods.start(leased(), spec()))
    assert lab.names() == ["tune-j-0-1"] and first.uid == second.uid
    made = lab.server.storage.objects("/v1/pods")[0]
    assert made["spec"]["containers"][0]["command"] == ["train", "3"]
    assert (await lab.do(first.look)).phase == "pending" and await lab.do(first.log) == []
    await lab.do(first.end)
    assert lab.names() == [] and (await lab.do(first.look)).phase == "gone"
    await lab.do(first.end)  # twice does no harm


async def test_older_attempts_of_the_trial_are_told_to_go_and_no_others(lab: Lab) -> None:
    for attempt, number in ((1, 0), (3, 0), (1, 1)):
        await lab.do(lambda attempt=attempt, number=number: lab.pods.start(leased(attempt, number), spec()))  # type: ignore[misc]
    assert lab.names() == ["tune-j-0-3", "tune-j-1-1"]
    await lab.do(lambda: lab.pods.start(leased(2), spec()))  # a late one takes nothing from its successor
    assert lab.names() == ["tune-j-0-2", "tune-j-0-3", "tune-j-1-1"]


async def test_a_setting_that_a_command_cannot_take_is_the_settings_fault(lab: Lab) -> None:
    with pytest.raises(InvalidSpec) as caught:
        await lab.do(lambda: lab.pods.start(leased(setting={"b": 1}), spec()))
    assert caught.value.field == "setting"


async def test_another_namespaces_deployment_is_not_touched(lab: Lab) -> None:
    with pytest.raises(Refused, match="own namespace"):
        await lab.do(lambda: lab.pods.start(leased(), spec(DeploymentTarget(name="chat", namespace="other"))))


async def test_a_pod_whose_creation_was_not_answered_is_asked_with_its_own_key(lab: Lab) -> None:
    what = deployment()
    body = what.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
    lab.server.storage.create("trimtab.dev/v1alpha1/servingdeployments", NS, body)
    body = pool("a").model_dump(mode="json", by_alias=True, exclude_none=True)
    lab.server.storage.create("trimtab.dev/v1alpha1/gpupools", "", body)
    pods = ClusterPods(lab.cluster, IMAGES, "trimtab-system")

    def start() -> ClusterPod:
        return pods.start(leased(setting={}), spec(DeploymentTarget(name="chat", namespace=NS)))

    lab.server.faults += [Fault(method="POST", drop_after=True, times=1), Fault(method="DELETE", status=500, times=1)]
    with pytest.raises(Refused):
        await lab.do(start)
    found = await lab.do(start)
    (made,) = lab.server.storage.objects("/v1/pods")
    env = {one["name"]: one.get("value") for one in made["spec"]["containers"][0]["env"]}
    assert found.api_key and env["TRIMTAB_API_KEY"] == found.api_key
    others = ClusterPods(lab.cluster, IMAGES, "trimtab-system")
    assert others._key(Attempt("j", 0, 1)) != found.api_key != pods._key(Attempt("j", 0, 2))
    assert found.api_key not in repr(found)


async def test_a_pod_of_a_try_before_that_is_on_its_way_out_is_waited_for(lab: Lab) -> None:
    await lab.do(lambda: lab.pods.start(leased(), spec()))
    pods = "/v1/pods"
    lab.server.storage.merge(pods, NS, "tune-j-0-1", {"metadata": {"finalizers": ["x/y"]}}, status_only=False)
    lab.server.storage.delete(pods, NS, "tune-j-0-1", {})
    with pytest.raises(Refused) as caught:
        await lab.do(lambda: lab.pods.start(leased(), spec()))
    assert caught.value.reason in PODS_LATER
    lab.server.storage.merge(pods, NS, "tune-j-0-1", {"metadata": {"finalizers": []}}, status_only=False)
    await lab.do(lambda: lab.pods.start(leased(), spec()))
    assert lab.names() == ["tune-j-0-1"]


async def test_a_pool_that_cannot_be_read_keeps_no_trial_of_others(lab: Lab) -> None:
    odd = {"metadata": {"name": "odd"}, "spec": {"nodeSelector": 7}}
    lab.server.storage.create("trimtab.dev/v1alpha1/gpupools", "", odd)
    await lab.do(lambda: lab.pods.start(leased(), spec()))
    assert lab.names() == ["tune-j-0-1"]


async def test_a_pod_that_cannot_be_deleted_keeps_no_other_one(lab: Lab) -> None:
    for number in range(3):
        await lab.do(lambda number=number: lab.pods.start(leased(1, number), spec()))  # type: ignore[misc]
    lab.server.faults.append(Fault(method="DELETE", path_contains="tune-j-0-1", status=403))

    class Store:
        def leases(self, asked: list[tuple[str, int]], *, now: object) -> set[tuple[str, int, int]]:
            return set()

    sweep = PodSweep(lab.pods, Store(), lambda: None)  # type: ignore[arg-type, return-value]
    assert await lab.do(sweep.once) == 2
    assert lab.names() == ["tune-j-0-1"]


async def test_a_namespace_that_cannot_be_read_keeps_no_other_one(lab: Lab) -> None:
    await lab.do(lambda: lab.pods.start(leased(), spec()))
    lab.server.faults.append(Fault(method="GET", path_contains="namespaces/away/", status=403))

    class Store:
        def leases(self, asked: list[tuple[str, int]], *, now: object) -> set[tuple[str, int, int]]:
            return set()

    pods = ClusterPods(lab.cluster, RenderSettings(), "trimtab-system", ("away", NS))
    sweep = PodSweep(pods, Store(), lambda: None)  # type: ignore[arg-type, return-value]
    assert await lab.do(sweep.once) == 1 and lab.names() == []


async def test_the_sweep_spares_what_is_held_and_what_is_not_ours(lab: Lab) -> None:
    for number in range(3):
        await lab.do(lambda number=number: lab.pods.start(leased(2, number), spec()))  # type: ignore[misc]
    other = ClusterPods(lab.cluster, RenderSettings(), "another-release")
    await lab.do(lambda: other.start(leased(1, 7), spec()))

    class Store:
        def leases(self, asked: list[tuple[str, int]], *, now: object) -> set[tuple[str, int, int]]:
            assert set(asked) <= {("j", 0), ("j", 1), ("j", 2)}  # the other release's are not asked about
            return {("j", 0, 2), ("j", 1, 3)}  # of trial 1 a later attempt is held

    sweep = PodSweep(lab.pods, Store(), lambda: None)  # type: ignore[arg-type, return-value]
    assert await lab.do(sweep.once) == 2
    assert lab.names() == ["tune-j-0-2", "tune-j-7-1"]
    assert await lab.do(sweep.once) == 0


def test_orphans_are_those_that_nobody_holds() -> None:
    pods = [FoundPod(NS, f"p{n}", f"u{n}", Attempt("j", n, 1)) for n in range(3)]
    assert orphans(pods, {("j", 1, 1), ("j", 2, 2)}) == [pods[0], pods[2]]


def test_what_may_be_asked_again() -> None:
    quota = Forbidden(403, "Forbidden", 'pods "p" is forbidden: exceeded quota: team, requested: pods=1')
    assert refused(quota, "pod").reason in PODS_LATER
    assert refused(Unreachable(0, "Unreachable", "refused"), "pod").reason in PODS_LATER
    assert refused(Forbidden(403, "Forbidden", "serviceaccount not found"), "pod").reason not in PODS_LATER


def pod(status: dict[str, Any], **metadata: Any) -> bytes:
    return json.dumps({"metadata": {"uid": "u", **metadata}, "spec": {"nodeName": "n"}, "status": status}).encode()


def test_what_is_seen_of_a_pod() -> None:
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}
    seen = seen_of(pod({"phase": "Pending", "conditions": [unplaced]}), "engine")[1]
    assert (seen.phase, seen.scheduled, seen.reason, seen.message) == ("pending", False, "Unschedulable", "0/2 nodes")
    killed = {"name": "engine", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    side = {"name": "side", "state": {"running": {}}}
    seen = seen_of(pod({"phase": "Running", "containerStatuses": [side, killed], "podIP": "10.0.0.9"}), "engine")[1]
    assert (seen.phase, seen.reason, seen.exit_code, seen.address) == ("running", "OOMKilled", 137, "10.0.0.9")
    evicted = pod(
        {"phase": "Failed", "reason": "Evicted", "message": "low", "containerStatuses": [killed]}, deletionTimestamp="x"
    )
    seen = seen_of(evicted, "engine")[1]
    assert (seen.phase, seen.reason, seen.message, seen.deleting) == ("failed", "Evicted", "low", True)
    image = {"name": "engine", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    placed = {"type": "PodScheduled", "status": "True"}
    seen = seen_of(pod({"phase": "Pending", "conditions": [placed], "containerStatuses": [image]}), "engine")[1]
    assert seen.scheduled and (seen.reason, seen.exit_code) == ("ImagePullBackOff", None)


def test_an_init_container_that_fails_says_nothing_about_the_setting() -> None:
    failed = {"name": "fetch", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
    waits = {"name": "engine", "state": {"waiting": {"reason": "PodInitializing"}}}
    seen = seen_of(pod({"phase": "Failed", "initContainerStatuses": [failed], "containerStatuses": [waits]}), "engine")[
        1
    ]
    assert (seen.reason, seen.message) == ("Init:Error", "fetch ended with status 1.")
    ended = ended_of(seen, ())
    assert ended is not None and verdict_of(ended, when="at start")[0] is Verdict.INFRASTRUCTURE


def test_hardware_is_named_without_its_host() -> None:
    node = {
        "metadata": {"name": "secret-host", "labels": {"node.kubernetes.io/instance-type": "p5.48xlarge"}},
        "status": {
            "capacity": {
                "cpu": "192",
                "memory": "2097152Mi",
                "nvidia.com/gpu": "8",
                "hugepages-1Gi": "0",
                "vpc/eni": "0",
            },
            "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "kernelVersion": "6.1"},
        },
    }
    assert (
        hardware_words(json.dumps(node).encode())
        == "p5.48xlarge, amd64, 192 CPUs, 2048 GiB, 8 nvidia.com/gpu, linux 6.1"
    )
