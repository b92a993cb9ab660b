"""Nodes that go, deployments that want the same accelerators, people who write at the same time: what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from devcluster.cluster import Cluster
from tests.integration.conftest import Kubectl
from tests.integration.faults.engine_processes import processes_of
from tests.integration.faults.local_operator import LocalOperator
from tests.integration.faults.pod_history import PodHistory
from tests.integration.faults.rest import Rest, eventually
from tests.integration.faults.serving_objects import GpuNodes, Serving, cpu_spec, gpu_spec, leaving, owner, place

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]
Name = Callable[[str], Serving]
MakeNodes = Callable[..., GpuNodes]


def node_of(deployment: Serving) -> str:
    node: str = deployment.pod()["spec"]["nodeName"]
    return node


def test_nodes_that_are_lost(cluster: Cluster, serving: Name, gpu_nodes: MakeNodes) -> None:
    """A node object is deleted, and a kubelet ends: both replicas are replaced elsewhere, and neither comes back twice.

    One test, as both wait for the same graces of the cluster.
    """
    if cluster.plan.node_monitor_grace_s > 30:
        pytest.skip(f"node grace {cluster.plan.node_monitor_grace_s} s; start the cluster with --node-monitor-grace 20")
    nodes = gpu_nodes(2)
    deleted, silent = serving("deleted"), serving("silent")
    deleted.create(gpu_spec(nodes.pool))
    silent.create(cpu_spec())
    deleted.wait_settled(1)
    silent.wait_settled(1)
    first, gone = deleted.pod(), node_of(deleted)
    cut_off, quiet = silent.pod(), node_of(silent)
    kubelet = f"kubelet-{quiet}"
    cluster.kill(kubelet)
    try:
        nodes.drop(gone)
        # 40 s of the pod collector's quarantine, and its period of 20 s.
        eventually(lambda: deleted.pods() and deleted.settled(1) and node_of(deleted) != gone, 100, deleted.shown)
        assert deleted.pod()["metadata"]["uid"] != first["metadata"]["uid"]

        def replaced() -> bool:
            staying = [pod for pod in silent.pods() if not leaving(pod)]
            ready = silent.get()["status"].get("readyReplicas", 0)
            return ready == 1 and len(staying) == 1 and staying[0]["spec"].get("nodeName") not in (None, quiet)

        # Node grace (20 s), 20 s of patience, the engine's start.
        eventually(replaced, 100, silent.shown)
    finally:
        cluster.start(kubelet)
    silent.wait_settled(1, 60)
    assert node_of(silent) != quiet
    eventually(lambda: not processes_of(cut_off), 30, "the old engine to end")
    nodes.add(gone)
    deleted.patch(replicas=2)
    deleted.wait_settled(2)


@pytest.mark.parametrize(
    "closed",
    [
        pytest.param({"unschedulable": True}, id="cordon"),
        pytest.param(
            {
                "taints": [
                    {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"},
                    {"key": "trimtab.dev/quarantine", "value": "xid-79", "effect": "NoSchedule"},
                ]
            },
            id="quarantine",
        ),
    ],
)
def test_a_closed_node_keeps_what_it_runs_and_gets_nothing_new(
    rest: Rest, serving: Name, gpu_nodes: MakeNodes, closed: dict[str, Any]
) -> None:
    nodes = gpu_nodes(2)
    chat = serving("chat")
    chat.create(gpu_spec(nodes.pool, tensor_parallel=2))
    chat.wait_settled(1)
    first = node_of(chat)
    with PodHistory(rest, chat.namespace, chat.name, most=4, least=1) as history:
        nodes.patch(first, closed)
        chat.patch(replicas=3)
        chat.wait_settled(3)
        on = [pod["spec"]["nodeName"] for pod in chat.pods()]
        assert on.count(first) == 1
        history.least = 3
        chat.new_revision(64)
        chat.wait_settled(3)
    assert first not in {pod["spec"]["nodeName"] for pod in chat.pods()}


def test_two_deployments_want_the_same_accelerators(serving: Name, gpu_nodes: MakeNodes) -> None:
    nodes = gpu_nodes(1)
    first, low, high = serving("first"), serving("low"), serving("high")
    first.create(gpu_spec(nodes.pool))
    first.wait_settled(1)
    low.create(gpu_spec(nodes.pool, priority="Low"))
    waits = low.wait_condition("WaitingForQuota")
    assert nodes.pool in waits["message"]
    high.create(gpu_spec(nodes.pool, priority="High"))
    high.wait_condition("WaitingForQuota")
    verdict = high.get()["status"]["choices"][0]
    assert (verdict["pool"], verdict["needed"], verdict["free"]) == (nodes.pool, 8, 0)
    assert low.pods() == high.pods() == []
    first.delete()
    high.wait_settled(1)
    assert low.condition()["reason"] == "WaitingForQuota"
    assert low.pods() == []
    high.patch(suspend=True)
    low.wait_settled(1)
    assert high.wait_condition("Suspended")["status"] == "False"


def test_both_are_created_at_once_and_one_is_placed(serving: Name, gpu_nodes: MakeNodes) -> None:
    nodes = gpu_nodes(1)
    rivals = [serving(f"rival-{n}") for n in range(4)]
    for rival in rivals:
        rival.create(gpu_spec(nodes.pool))
    eventually(lambda: [r.condition().get("status") for r in rivals].count("True") == 1, 60, "one to be ready")
    eventually(lambda: [r.condition().get("reason") for r in rivals].count("WaitingForQuota") == 3, 60, "three to wait")
    assert sum(len(rival.pods()) for rival in rivals) == 1
    for _ in rivals:
        winner = next(r for r in rivals if r.pods())
        winner.wait_settled(1)
        winner.delete()
        rivals.remove(winner)
        if rivals:
            eventually(lambda: any(r.pods() for r in rivals), 30, "the next to be placed")


def another(rest: Rest, path: str, uid: str) -> Callable[[], bool]:
    """Whether there is an object again, and not the one of this uid."""
    return lambda: uid != (rest.find(path) or {}).get("metadata", {}).get("uid", uid)


def test_foreign_writes_are_repaired(rest: Rest, serving: Name, gpu_nodes: MakeNodes) -> None:
    nodes = gpu_nodes(2)
    chat = serving("chat")
    chat.create(gpu_spec(nodes.pool))
    chat.wait_settled(1)
    lie = {"status": {"readyReplicas": 7, "replicas": 7, "reason": "Lies", "conditions": []}}
    rest.merge(f"{chat.path}/status", lie)
    chat.wait_settled(1)
    assert chat.condition()["reason"] == "AllReady"
    base = f"/namespaces/{chat.namespace}"
    service = f"/api/v1{base}/services/{chat.name}"
    budget = f"/apis/policy/v1{base}/poddisruptionbudgets/{chat.name}"
    rest.merge(service, {"spec": {"selector": {"trimtab.dev/deployment": "elsewhere"}}})
    eventually(lambda: rest.get(service)["spec"]["selector"]["trimtab.dev/deployment"] == "chat", 30, "the selector")
    for path in (service, budget):
        uid = rest.get(path)["metadata"]["uid"]
        rest.delete(path)
        eventually(another(rest, path, uid), 30, path)
    pod = chat.pod()["metadata"]
    rest.delete(f"/api/v1{base}/pods/{pod['name']}")
    eventually(lambda: any(p["metadata"]["uid"] != pod["uid"] for p in chat.pods()), 30, "a new pod")
    chat.wait_settled(1)


def test_the_spec_changes_again_and_again_during_a_rollout(rest: Rest, serving: Name, gpu_nodes: MakeNodes) -> None:
    nodes = gpu_nodes(4)
    chat = serving("chat")
    chat.create(gpu_spec(nodes.pool, replicas=3))
    chat.wait_settled(3)
    with PodHistory(rest, chat.namespace, chat.name, most=4, least=3) as history:
        for revision in range(64, 72):
            chat.new_revision(revision)
        chat.wait_settled(3)
        history.least = 0
        for replicas in (0, 3, 1, 2):
            chat.patch(replicas=replicas)
        chat.new_revision(80)
        chat.wait_settled(2)


def test_kubectl_scales_suspends_and_deletes(kubectl: Kubectl, rest: Rest, serving: Name, gpu_nodes: MakeNodes) -> None:
    nodes = gpu_nodes(3)
    chat = serving("chat")
    chat.create(gpu_spec(nodes.pool))
    chat.wait_settled(1)
    for replicas in (3, 1, 0):
        kubectl("scale", "servingdeployment", chat.name, "-n", chat.namespace, f"--replicas={replicas}")
        chat.wait_settled(replicas)
    assert chat.condition()["reason"] == "ScaledToZero"
    chat.patch(replicas=2)
    chat.wait_settled(2)
    chat.patch(suspend=True)
    chat.wait_condition("Suspended")
    eventually(lambda: not chat.pods(), 30, "the pods to leave")
    assert all(chat.owned().values())
    chat.patch(suspend=False)
    chat.wait_settled(2)
    uid = chat.get()["metadata"]["uid"]
    kubectl("delete", "servingdeployment", chat.name, "-n", chat.namespace, "--wait=false")
    chat.wait_gone()
    # A successor of the same name is another object.
    chat.create(gpu_spec(nodes.pool))
    chat.wait_settled(1)
    assert chat.get()["metadata"]["uid"] != uid


def test_a_successor_at_once(serving: Name, gpu_nodes: MakeNodes) -> None:
    """Deleted and created again before anything of the first is collected."""
    nodes = gpu_nodes(1)
    chat = serving("chat")
    chat.create(gpu_spec(nodes.pool))
    chat.wait_settled(1)
    chat.delete()
    chat.create(gpu_spec(nodes.pool))
    chat.wait_settled(1)


def test_somebody_elses_objects_of_our_name_are_not_taken_over(
    rest: Rest, serving: Name, gpu_nodes: MakeNodes, operator: LocalOperator
) -> None:
    nodes = gpu_nodes(1)
    chat = serving("chat")
    base = f"/namespaces/{chat.namespace}"
    theirs: dict[str, dict[str, Any]] = {
        f"/api/v1{base}/services": {"selector": {"app": "mine"}, "ports": [{"port": 80}]},
        f"/apis/policy/v1{base}/poddisruptionbudgets": {
            "selector": {"matchLabels": {"app": "mine"}},
            "minAvailable": 1,
        },
    }
    for path, spec in theirs.items():
        rest.create(path, {"metadata": {"name": chat.name}, "spec": spec})
    before = {path: rest.get(f"{path}/{chat.name}")["spec"] for path in theirs}
    chat.create(gpu_spec(nodes.pool))
    told = chat.wait_condition("NameConflict")
    assert told["status"] == "False"
    for kind in ("Service", "PodDisruptionBudget"):
        assert f"{kind} {chat.namespace}/{chat.name} exists and is not ours" in told["message"]
    eventually(lambda: chat.get()["status"].get("readyReplicas") == 1, 30, chat.shown)
    assert chat.condition()["reason"] == "NameConflict"
    assert {path: rest.get(f"{path}/{chat.name}")["spec"] for path in theirs} == before
    assert [owner(rest.get(f"{path}/{chat.name}")) for path in theirs] == [None, None]
    errors = operator.metric("controller_runtime_reconcile_errors_total")
    for path in theirs:
        rest.delete(f"{path}/{chat.name}")
    chat.wait_condition("AllReady")  # tried again now and then: nobody tells us that a name is free
    chat.wait_settled(1)
    assert operator.metric("controller_runtime_reconcile_errors_total") == errors


def test_a_pool_without_nodes_is_said_until_one_comes(rest: Rest, serving: Name, gpu_nodes: MakeNodes) -> None:
    nodes = gpu_nodes(0)
    chat = serving("chat")
    chat.create(gpu_spec(nodes.pool))

    def pool_reason() -> str:
        conditions = rest.get(nodes.path).get("status", {}).get("conditions", [])
        return next((c["reason"] for c in conditions if c["type"] == "Ready" and c["status"] == "False"), "")

    assert eventually(pool_reason, 30, "the pool's verdict") == "NoNodes"
    told = eventually(chat.condition, 30, chat.shown)
    assert told["status"] == "False"
    assert nodes.pool in told["message"]
    assert chat.get()["status"]["choices"][0]["pool"] == nodes.pool
    nodes.names.append(f"{nodes.pool}-late")
    nodes.add(nodes.names[0])
    chat.wait_settled(1)


def test_a_pod_of_a_gang_is_lost(rest: Rest, serving: Name, gpu_nodes: MakeNodes) -> None:
    """Deleted by hand, then evicted by its node: its replica is made whole again, the other one answers throughout."""
    nodes = gpu_nodes(6)
    chat = serving("chat")
    chat.ranks = 2
    chat.create(gpu_spec(nodes.pool, replicas=2, nodes_per_replica=2))
    chat.wait_settled(2)
    pods = f"/api/v1/namespaces/{chat.namespace}/pods"

    def worker() -> Any:
        return next(pod["metadata"] for pod in chat.pods() if place(pod)[2] == "1")

    def mended(uid: str) -> Callable[[], bool]:
        return lambda: chat.settled(2) and uid not in {pod["metadata"]["uid"] for pod in chat.pods()}

    with PodHistory(rest, chat.namespace, chat.name, most=2, least=1, ranks=2):
        victim = worker()
        rest.delete(f"{pods}/{victim['name']}")
        eventually(mended(victim["uid"]), 60, chat.shown)
        victim = worker()
        rest.merge(f"{pods}/{victim['name']}/status", {"status": {"phase": "Failed", "reason": "Evicted"}})
        eventually(mended(victim["uid"]), 60, chat.shown)
    chat.check(2)
