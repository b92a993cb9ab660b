"""Input that cannot work, given to the running operator: a reason and a way out, never a crash loop.

What the API server refuses by itself is in crds/test_rules.py. Here is what needs the catalogue or the cluster: it is
stored, and the object's own conditions say what is wrong.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.conftest import Kubectl
from tests.unit.crds.bad_objects import GOOD_SERVING, changed

pytestmark = pytest.mark.cluster
OPEN = "hf:Qwen/Qwen3-8B"  # needs no claim; simulated nodes download nothing
PATIENCE_S = 60.0
CHOICE = "spec.explicit.choices[0]"
_OPERATOR = "app.kubernetes.io/name=trimtab,app.kubernetes.io/component=operator"


@pytest.fixture(scope="module", autouse=True)
def operator_never_restarts(kubectl: Kubectl) -> Iterator[None]:
    """Needs the installed operator; at the end its containers must be the ones they were."""
    before = _containers(kubectl)
    if not before:
        pytest.skip("Trimtab is not installed in this cluster; `make up` installs it")
    yield
    assert _containers(kubectl) == before


@pytest.fixture(scope="module")
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """One for all tests here; every test has names of its own."""
    name = f"bad-input-{secrets.token_hex(3)}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def _containers(kubectl: Kubectl) -> dict[str, int]:
    pods = kubectl.json("get", "pods", "-A", "-l", _OPERATOR)["items"]
    return {
        pod["metadata"]["name"]: sum(c["restartCount"] for c in pod["status"].get("containerStatuses", []))
        for pod in pods
    }


def settled(
    kubectl: Kubectl, kind: str, name: str, namespace: str | None, done: Callable[[dict[str, Any]], bool]
) -> Any:
    """The Ready condition once it is about the present generation and `done`."""
    where = ["-n", namespace] if namespace else []
    until = time.monotonic() + PATIENCE_S
    last: Any = None
    while time.monotonic() < until:
        found = kubectl.json("get", kind, name, *where)
        conditions = found.get("status", {}).get("conditions", [])
        last = next((c for c in conditions if c["type"] == "Ready"), conditions)
        if last and last["observedGeneration"] == found["metadata"]["generation"] and done(last):
            return last
        time.sleep(0.2)
    raise AssertionError(f"{kind} {name} did not settle in {PATIENCE_S:g} s: {last}")


def serving(kubectl: Kubectl, namespace: str, name: str, changes: dict[str, Any]) -> None:
    manifest = changed(GOOD_SERVING, {"metadata.namespace": namespace, "metadata.name": name, **changes})
    kubectl("create", "-f", "-", stdin=json.dumps(manifest))


def pods(kubectl: Kubectl, namespace: str, name: str) -> list[str]:
    found = kubectl("get", "pods", "-n", namespace, "-l", f"trimtab.dev/deployment={name}", "-o", "name")
    return found.split()


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        pytest.param(
            {"spec.model.name": "llama-3.1-80b"}, "UnknownName", ["spec.model.name", "llama-3.1-8"], id="unknown model"
        ),
        pytest.param(
            {f"{CHOICE}.accelerator": "h100-smx-80gb"},
            "UnknownName",
            [f"{CHOICE}.accelerator", "h100-sxm-80gb"],
            id="unknown accelerator",
        ),
        pytest.param(
            {f"{CHOICE}.knobs": {"maxNumSeq": 8}}, "UnknownName", [f"{CHOICE}.knobs.maxNumSeq", "maxNumSeqs"], id="unknown knob"
        ),
        pytest.param(
            {f"{CHOICE}.knobs": {"maxNumSeqs": -5}}, "InvalidSpec", [f"{CHOICE}.knobs.maxNumSeqs", "1 to 65536"], id="absurd knob"
        ),
        pytest.param(
            {f"{CHOICE}.tensorParallel": 3}, "InvalidSpec", [f"{CHOICE}.tensorParallel"], id="shape that does not divide heads"
        ),
        pytest.param(
            {f"{CHOICE}.tensorParallel": 16, f"{CHOICE}.acceleratorsPerPod": 16},
            "InvalidSpec",
            [f"{CHOICE}.acceleratorsPerPod", "8"],
            id="more than a node has",
        ),
        pytest.param(
            {"spec.podTemplate": {"spec": {"hostNetwork": True}}}, "", ["spec.podTemplate.spec.hostNetwork"], id="host network"
        ),
    ],
)  # fmt: skip
def test_what_the_catalogue_knows_to_be_wrong(
    kubectl: Kubectl, namespace: str, changes: dict[str, Any], reason: str, words: list[str]
) -> None:
    name = f"bad-{secrets.token_hex(3)}"
    serving(kubectl, namespace, name, changes)
    ready = settled(kubectl, "servingdeployment", name, namespace, lambda c: c["status"] == "False")
    assert reason in ready["reason"]
    assert [word for word in words if word not in ready["message"]] == []
    assert pods(kubectl, namespace, name) == []
    # The way out works: the same object, corrected, is judged again.
    kubectl(
        "patch",
        "sdep",
        name,
        "-n",
        namespace,
        "--type=merge",
        "-p",
        json.dumps({"spec": {**GOOD_SERVING["spec"], "suspend": True, "podTemplate": None}}),
    )
    assert (
        settled(kubectl, "servingdeployment", name, namespace, lambda c: c["reason"] != ready["reason"])["reason"]
        == "Suspended"
    )


def test_a_megabyte_of_pod_template(kubectl: Kubectl, namespace: str) -> None:
    environment = [{"name": f"VARIABLE_{n}", "value": "x" * 1000} for n in range(1_000)]
    serving(
        kubectl,
        namespace,
        "large",
        {"spec.podTemplate": {"spec": {"containers": [{"name": "engine", "env": environment}]}}},
    )
    # Refused for its size, or placed: either way it is judged, and the next object is too.
    settled(kubectl, "servingdeployment", "large", namespace, lambda c: bool(c["reason"]))
    serving(kubectl, namespace, "next", {"spec.suspend": True})
    assert settled(kubectl, "servingdeployment", "next", namespace, lambda c: True)["reason"] == "Suspended"


def test_a_pool_that_matches_nothing(kubectl: Kubectl) -> None:
    name = f"nothing-{secrets.token_hex(3)}"
    pool = {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": name},
        "spec": {"nodeSelector": {"matchLabels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM4"}}},
    }
    kubectl("create", "-f", "-", stdin=json.dumps(pool))
    try:
        ready = settled(kubectl, "gpupool", name, None, lambda c: c["status"] == "False")
        assert ready["reason"]
        assert "nvidia.com/gpu.product" in ready["message"]
    finally:
        kubectl("delete", "gpupool", name, "--wait=false")


@pytest.fixture
def small_pool(kubectl: Kubectl) -> Iterator[str]:
    """A pool of one simulated node with eight L40S, nobody else's."""
    name = f"small-{secrets.token_hex(3)}"
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8", "ephemeral-storage": "1Ti"}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {
                "kubernetes.io/hostname": name,
                "nvidia.com/gpu.product": "NVIDIA-L40S",
                "test.trimtab.dev/pool": name,
            },
        },
        "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
    }
    pool = {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"matchLabels": {"test.trimtab.dev/pool": name}},
            "tolerations": [{"key": "kwok.x-k8s.io/node", "effect": "NoSchedule"}],
        },
    }
    kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [node, pool]}))
    kubectl(
        "patch",
        "node",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": {"capacity": amounts, "allocatable": amounts}}),
    )
    try:
        settled(kubectl, "gpupool", name, None, lambda c: c["status"] == "True")
        yield name
    finally:
        kubectl("delete", "gpupool", name, "--wait=false")
        kubectl("delete", "node", name, "--wait=false")


def test_two_deployments_want_the_same_accelerators(kubectl: Kubectl, namespace: str, small_pool: str) -> None:
    whole_node = {"spec.model.source": OPEN, f"{CHOICE}.tensorParallel": 8, f"{CHOICE}.pools": [small_pool]}
    serving(kubectl, namespace, "first", whole_node)
    settled(kubectl, "servingdeployment", "first", namespace, lambda c: c["status"] == "True")
    serving(kubectl, namespace, "second", whole_node)
    waiting = settled(kubectl, "servingdeployment", "second", namespace, lambda c: c["status"] == "False")
    assert waiting["reason"] == "WaitingForQuota"
    assert small_pool in waiting["message"]
    verdict = kubectl.json("get", "sdep", "second", "-n", namespace)["status"]["choices"][0]
    assert (verdict["needed"], verdict["free"]) == (8, 0)
    assert pods(kubectl, namespace, "second") == []
    kubectl("delete", "sdep", "first", "-n", namespace, "--wait=false")
    settled(kubectl, "servingdeployment", "second", namespace, lambda c: c["status"] == "True")


def test_the_longest_name_fits_everywhere(kubectl: Kubectl, namespace: str, small_pool: str) -> None:
    name = "n" * 43
    serving(kubectl, namespace, name, {"spec.model.source": OPEN, f"{CHOICE}.pools": [small_pool]})
    settled(kubectl, "servingdeployment", name, namespace, lambda c: c["status"] == "True")
    (pod,) = pods(kubectl, namespace, name)
    assert len(pod.removeprefix("pod/")) <= 63
    assert kubectl("get", "service", name, "-n", namespace, "-o", "name").strip() == f"service/{name}"
