"""Ordered choices on the real cluster: fallback with its reason, back up again without a gap, gangs over nodes."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.conftest import Kubectl

pytestmark = pytest.mark.cluster
PATIENCE_S = 120.0
MODEL = {"name": "llama-3.1-8b", "source": "hf:meta-llama/Llama-3.1-8B-Instruct"}
MakePool = Callable[[int], str]


@pytest.fixture
def make_pool(kubectl: Kubectl) -> Iterator[MakePool]:
    """Makes pools of simulated nodes with eight L40S each; needs an installed operator."""
    operators = kubectl.json("get", "deployments", "-A", "-l", "app.kubernetes.io/component=operator")["items"]
    if not any(item.get("status", {}).get("readyReplicas") for item in operators):
        pytest.skip("Trimtab is not installed in this cluster; `make up` installs it")
    made: list[str] = []

    def make(nodes: int) -> str:
        name = f"choice-{secrets.token_hex(3)}"
        made.append(name)
        for number in range(nodes):
            add_node(kubectl, name, number)
        pool = {
            "apiVersion": "trimtab.dev/v1alpha1",
            "kind": "GPUPool",
            "metadata": {"name": name},
            "spec": {
                "nodeSelector": {"matchLabels": {"test.trimtab.dev/pool": name}},
                "accelerator": "l40s",
                "tolerations": [{"key": "kwok.x-k8s.io/node", "effect": "NoSchedule"}],
            },
        }
        kubectl("create", "-f", "-", stdin=json.dumps(pool))
        return name

    yield make
    for name in made:
        kubectl("delete", "gpupool", name, "--wait=false")
        kubectl("delete", "node", "-l", f"test.trimtab.dev/pool={name}", "--wait=false")


def add_node(kubectl: Kubectl, pool: str, number: int) -> None:
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8", "ephemeral-storage": "1Ti"}
    name = f"{pool}-{number}"
    labels = {"kubernetes.io/hostname": name, "test.trimtab.dev/pool": pool}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": labels},
        "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
    }
    kubectl("create", "-f", "-", stdin=json.dumps(node))
    status = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
    kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", status)


def create(kubectl: Kubectl, namespace: str, name: str, *choices: dict[str, Any], **spec: Any) -> None:
    explicit = {"choices": [{"accelerator": "l40s", "engine": "vllm", **choice} for choice in choices]}
    manifest = {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ServingDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": MODEL, "explicit": explicit, **spec},
    }
    kubectl("create", "-f", "-", stdin=json.dumps(manifest))


def wait(kubectl: Kubectl, namespace: str, name: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    until, status = time.monotonic() + PATIENCE_S, {}
    while time.monotonic() < until:
        status = kubectl.json("get", "servingdeployment", name, "-n", namespace).get("status", {})
        if status and done(status):
            return status
        time.sleep(0.3)
    raise AssertionError(f"{name} did not settle in {PATIENCE_S:g} s: {json.dumps(status, indent=1)}")


def pods(kubectl: Kubectl, namespace: str) -> list[dict[str, Any]]:
    found = kubectl.json("get", "pods", "-n", namespace)["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def test_falls_back_says_why_and_moves_up_without_a_gap(kubectl: Kubectl, namespace: str, make_pool: MakePool) -> None:
    better, worse = make_pool(1), make_pool(1)
    create(kubectl, namespace, "holder", {"pools": [better], "tensorParallel": 8})
    wait(kubectl, namespace, "holder", lambda s: s["reason"] == "AllReady")
    create(
        kubectl,
        namespace,
        "chat",
        {"pools": [better], "tensorParallel": 8},
        {"pools": [worse], "tensorParallel": 4},
        rollout={"preferBetter": "WhenFree", "drainSeconds": 1},
    )
    status = wait(kubectl, namespace, "chat", lambda s: s["reason"] == "AllReady")
    refused, chosen = status["choices"]
    assert (refused["reason"], refused["pool"], refused["needed"], refused["free"]) == ("WaitingForQuota", better, 8, 0)
    assert (chosen["reason"], chosen["index"], status["pools"][0]["pool"]) == ("Chosen", 1, worse)
    events = kubectl.json("get", "events", "-n", namespace)["items"]
    assert "Fallback" in {event["reason"] for event in events}

    kubectl("delete", "servingdeployment", "holder", "-n", namespace)
    gaps = []

    def moved(status: dict[str, Any]) -> bool:
        gaps.append(status["readyReplicas"] < 1)
        return [pool["pool"] for pool in status["pools"]] == [better] and status["reason"] == "AllReady"

    wait(kubectl, namespace, "chat", moved)
    assert not any(gaps)


def test_a_gang_spans_nodes_or_is_not_made_at_all(kubectl: Kubectl, namespace: str, make_pool: MakePool) -> None:
    pool = make_pool(1)
    shape = {"pools": [pool], "tensorParallel": 8, "pipelineParallel": 2}
    create(kubectl, namespace, "wide", shape, rollout={"drainSeconds": 1})
    status = wait(kubectl, namespace, "wide", lambda s: bool(s.get("choices")))
    assert status["reason"] == "ExceedsMaxQuota"
    assert not pods(kubectl, namespace)
    add_node(kubectl, pool, 1)
    wait(kubectl, namespace, "wide", lambda s: s["reason"] == "AllReady")
    gang = pods(kubectl, namespace)
    assert len({pod["spec"]["nodeName"] for pod in gang}) == 2
    assert {pod["metadata"]["labels"]["trimtab.dev/rank"] for pod in gang} == {"0", "1"}
    service = kubectl.json("get", "service", "wide-gang", "-n", namespace)
    assert service["spec"]["clusterIP"] == "None"
    budget = kubectl.json("get", "poddisruptionbudget", "wide", "-n", namespace)
    assert budget["spec"]["minAvailable"] == 1

    worker = next(pod for pod in gang if pod["metadata"]["labels"]["trimtab.dev/rank"] == "1")
    kubectl("delete", "pod", worker["metadata"]["name"], "-n", namespace, "--grace-period=1")
    before = {pod["metadata"]["uid"] for pod in gang}

    def renewed(status: dict[str, Any]) -> bool:
        now = {pod["metadata"]["uid"] for pod in pods(kubectl, namespace)}
        return status["reason"] == "AllReady" and len(now) == 2 and not now & before

    wait(kubectl, namespace, "wide", renewed)
