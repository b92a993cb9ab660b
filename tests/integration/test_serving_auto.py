"""Planned deployments on the real cluster, by the real planner: Ready on the embedded engine with measurements beside the
prediction; fallback when the planned pool is taken; planning over the API."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Kubectl

pytestmark = pytest.mark.cluster
# A first plan on a busy machine loads or compiles the replay: a minute. Then the engine starts.
PATIENCE_S = 240.0
SYSTEM = "trimtab-system"
SPARE_GPU = "a10g"  # no pool of the development cluster has it
TINY = {"name": "tiny-random-llama", "source": "image:/models/tiny-random-llama.gguf"}
LLAMA = {"name": "llama-3.1-8b", "source": "hf:meta-llama/Llama-3.1-8B-Instruct"}


def create(kubectl: Kubectl, namespace: str, name: str, **spec: Any) -> None:
    manifest = {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ServingDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"rollout": {"drainSeconds": 1}, **spec},
    }
    kubectl("create", "-f", "-", stdin=json.dumps(manifest))


def status_of(kubectl: Kubectl, namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = kubectl.json("get", "servingdeployment", name, "-n", namespace).get("status", {})
    return found


def wait(
    kubectl: Kubectl, namespace: str, name: str, done: Callable[[dict[str, Any]], bool], within_s: float = PATIENCE_S
) -> dict[str, Any]:
    until, status = time.monotonic() + within_s, {}
    while time.monotonic() < until:
        status = status_of(kubectl, namespace, name)
        if status and done(status):
            return status
        time.sleep(0.5)
    raise AssertionError(f"{name} did not settle in {within_s:g} s: {json.dumps(status, indent=1)}")


def settled(status: dict[str, Any]) -> bool:
    return bool(status["reason"] == "AllReady")


@pytest.fixture
def make_pool(kubectl: Kubectl) -> Iterator[Callable[[], str]]:
    """Makes pools of one simulated node with eight A10G."""
    made: list[str] = []

    def make() -> str:
        name = f"auto-{secrets.token_hex(3)}"
        made.append(name)
        labels = {"kubernetes.io/hostname": name, "test.trimtab.dev/pool": name}
        taint = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": labels},
            "spec": {"taints": [taint]},
        }
        kubectl("create", "-f", "-", stdin=json.dumps(node))
        amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8", "ephemeral-storage": "1Ti"}
        stated = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
        kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", stated)
        spec = {
            "nodeSelector": {"matchLabels": {"test.trimtab.dev/pool": name}},
            "accelerator": SPARE_GPU,
            "tolerations": [{"key": taint["key"], "effect": "NoSchedule"}],
        }
        pool = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "GPUPool", "metadata": {"name": name}, "spec": spec}
        kubectl("create", "-f", "-", stdin=json.dumps(pool))
        kubectl("wait", f"gpupool/{name}", "--for=condition=Ready", "--timeout=30s")
        return name

    yield make
    for name in made:
        kubectl("delete", "gpupool", name, "--wait=false")
        kubectl("delete", "node", name, "--wait=false")


@pytest.fixture
def api(kubectl: Kubectl, namespace: str) -> Iterator[httpx.Client]:
    """The installed API, as a user with the cluster's view role sees it."""
    services = kubectl.json("get", "services", "-n", SYSTEM, "-l", "app.kubernetes.io/component=api")["items"]
    if not services:
        pytest.skip("Trimtab is not installed in this cluster; `make up` installs it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    target = [f"service/{services[0]['metadata']['name']}", f"{port}:{services[0]['spec']['ports'][0]['port']}"]
    forward = subprocess.Popen(
        ["kubectl", "port-forward", "-n", SYSTEM, *target], env=kubectl.env, stdout=subprocess.DEVNULL
    )
    binding = f"planner-{namespace}"
    kubectl("create", "serviceaccount", "planner", "-n", namespace)
    kubectl("create", "clusterrolebinding", binding, "--clusterrole=view", f"--serviceaccount={namespace}:planner")
    token = kubectl("create", "token", "planner", "-n", namespace, "--audience=trimtab").strip()
    try:
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=180) as client:
            until = time.monotonic() + 30
            while True:
                try:
                    client.get("/healthz")
                    break
                except httpx.TransportError:
                    assert time.monotonic() < until, "the forward to the API does not open"
                    time.sleep(0.2)
            yield client
    finally:
        forward.terminate()
        forward.wait(10)
        kubectl("delete", "clusterrolebinding", binding)


def test_ends_ready_and_measurements_stand_beside_the_prediction(
    kubectl: Kubectl, namespace: str, api: httpx.Client
) -> None:
    pools = kubectl.json("get", "gpupools")["items"]
    cpus = {pool["status"].get("accelerator", "") for pool in pools if pool["status"].get("freeAccelerators")}
    kinds = sorted(kind for kind in cpus if kind.startswith("cpu-"))
    if not kinds:
        pytest.skip("no free whole core in any CPU pool")
    create(
        kubectl,
        namespace,
        "tiny",
        model=TINY,
        slo={"ttftMs": {"p95": 20_000}, "tpotMs": {"p95": 5_000}},
        workload={"arrivals": "closed", "concurrency": 2, "input": {"tokens": 64}, "output": {"tokens": 32}},
        auto={"allowed": {"accelerators": kinds, "maxAccelerators": 1}},
    )
    status = wait(kubectl, namespace, "tiny", settled)
    (condition,) = [item for item in status["conditions"] if item["type"] == "Planned"]
    assert (condition["status"], condition["reason"]) == ("True", "Planned")
    best = status["plan"]["candidates"][0]
    assert best["choices"][0]["choice"]["engine"] == "openvino"
    assert best["prediction"]["provenance"]["tier"] in ("roofline", "calibrated")
    assert (
        best["prediction"]["ttftMs"]["lo"] <= best["prediction"]["ttftMs"]["mean"] <= best["prediction"]["ttftMs"]["hi"]
    )

    body = json.dumps({"model": "tiny-random-llama", "prompt": "Hello " * 20, "max_tokens": 32})
    proxied = f"/api/v1/namespaces/{namespace}/services/tiny:8000/proxy/v1/completions"
    path = f"/v1/namespaces/{namespace}/serving-deployments/tiny/plan"
    seen: dict[str, Any] = {}
    until = time.monotonic() + 90
    while time.monotonic() < until:
        # Growth of a histogram needs requests between two samples, 5 s apart.
        kubectl("create", "--raw", proxied, "-f", "-", stdin=body)
        seen = api.get(path).raise_for_status().json()
        if seen["ttftMs"].get("mean") is not None and seen["tpotMs"].get("mean") is not None:
            break
        time.sleep(1)
    for latency in ("ttftMs", "tpotMs"):
        assert seen[latency]["observations"] > 0, seen
        assert seen[latency]["predicted"]["p95"] > 0
        assert seen[latency]["mean"] > 0
        assert isinstance(seen[latency]["meanInInterval"], bool)
    assert len(seen["pods"]) == 1


def test_falls_back_when_the_planned_pool_is_taken_and_then_plans_for_what_is_left(
    kubectl: Kubectl, namespace: str, make_pool: Callable[[], str]
) -> None:
    pools = {make_pool(), make_pool()}
    create(
        kubectl,
        namespace,
        "chat",
        model=LLAMA,
        slo={"tpotMs": {"p95": 500}},
        workload={"ratePerSecond": 0.2, "input": {"tokens": 256}, "output": {"tokens": 64}},
        auto={"allowed": {"accelerators": [SPARE_GPU], "engines": ["vllm"], "maxAccelerators": 4}},
    )
    status = wait(kubectl, namespace, "chat", settled)
    planned = status["plan"]["candidates"][0]["choices"][0]["pool"]
    (other,) = pools - {planned}
    assert [pool["pool"] for pool in status["pools"]] == [planned]
    assert {choice["pool"] for candidate in status["plan"]["candidates"] for choice in candidate["choices"]} == pools

    # Somebody takes the pool while the deployment rests.
    kubectl("patch", "sdep", "chat", "-n", namespace, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    wait(kubectl, namespace, "chat", lambda status: not status["replicas"])
    holder = {"accelerator": SPARE_GPU, "engine": "vllm", "tensorParallel": 8, "pools": [planned]}
    create(kubectl, namespace, "holder", model=LLAMA, explicit={"choices": [holder]})
    wait(kubectl, namespace, "holder", settled)
    kubectl("patch", "sdep", "chat", "-n", namespace, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    status = wait(kubectl, namespace, "chat", settled)
    assert [pool["pool"] for pool in status["pools"]] == [other]
    before = kubectl("get", "pods", "-n", namespace, "-l", "trimtab.dev/deployment=chat", "-o", "name")

    # The plan follows what is left; the replicas that already run there stay.
    status = wait(
        kubectl, namespace, "chat", lambda s: s["plan"]["candidates"][0]["choices"][0]["pool"] == other and settled(s)
    )
    assert kubectl("get", "pods", "-n", namespace, "-l", "trimtab.dev/deployment=chat", "-o", "name") == before


def test_a_promise_nothing_keeps_is_told_and_starts_nothing(
    kubectl: Kubectl, namespace: str, make_pool: Callable[[], str]
) -> None:
    make_pool()
    create(
        kubectl,
        namespace,
        "hopeless",
        model=LLAMA,
        slo={"tpotMs": {"p95": 0.01}},
        workload={"ratePerSecond": 1, "input": {"tokens": 256}, "output": {"tokens": 64}},
        auto={"allowed": {"accelerators": [SPARE_GPU], "engines": ["vllm"]}},
    )
    status = wait(kubectl, namespace, "hopeless", lambda s: s["reason"] == "PlanFailed")
    assert status["replicas"] == 0
    assert any("SLO" in item["message"] for item in status["conditions"] if item["type"] == "Planned"), status


def test_plans_over_the_api_with_progress(api: httpx.Client) -> None:
    question = {
        "model": "llama-3.1-8b",
        "slo": {"tpotMs": {"p95": 500}},
        "workload": {"ratePerSecond": 0.5, "input": {"tokens": 256}, "output": {"tokens": 64}},
        "pools": [{"name": "what-if", "accelerator": SPARE_GPU, "free": 4, "perNode": 4}],
        "allowed": {"engines": ["vllm"]},
    }
    answer = api.post("/v1/plans", json=question, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    with api.stream("GET", f"{answer.headers['Location']}/events") as stream:
        events = [line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")]
    assert events[-1] == "done"
    assert "progress" in events
    job = api.get(answer.headers["Location"]).json()
    assert job["plan"]["best"][0]["roles"][0]["pool"] == "what-if"
    assert api.post("/v1/plans", json=question).status_code == 200  # warm, it is answered at once
    refused = api.post("/v1/plans", json=question | {"model": "llama-3.1-9b"})
    assert (refused.status_code, refused.json()["code"]) == (422, "UnknownName")
    assert api.delete(answer.headers["Location"]).status_code == 204
