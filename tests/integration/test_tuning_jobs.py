"""A TuningJob's life on a real cluster, through kubectl alone: begun, measured in pods, suspended, resumed, deleted."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Kubectl

pytestmark = pytest.mark.cluster
_PATIENCE_S = 300.0
# Less than what one call of kubectl may take.
_WAIT_S = 100
_SYSTEM = "trimtab-system"


@pytest.fixture(scope="module")
def image(kubectl: Kubectl) -> str:
    """One that every node has: the workers' own."""
    found = kubectl.run(
        "get", "deploy", "trimtab-tuning-worker", "-n", _SYSTEM, "-o", "jsonpath={..containers[0].image}", check=False
    )
    if found.returncode != 0:
        pytest.skip("the cluster has no tuning workers: install the chart with tuning.enabled")
    return found.stdout


def job(namespace: str, image: str, **spec: Any) -> dict[str, Any]:
    """Prints its own parameter after a moment."""
    program = "import time; time.sleep(0.5); print('value={a}')"
    whole = {
        "target": {"kind": "command", "command": ["python3", "-c", program], "image": image},
        "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 100}]},
        "objectives": [{"metric": "value"}],
        "baseline": {"a": 1},
        "budget": {"trials": 40},
        "sampler": "random",
        "pods": {"besideLive": True},
        **spec,
    }
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": "walk", "namespace": namespace},
        "spec": whole,
    }


class Walk:
    """The job in kubectl's hands."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self.kubectl, self.namespace = kubectl, namespace

    def status(self) -> dict[str, Any]:
        return dict(self.kubectl.json("get", "tj", "walk", "-n", self.namespace).get("status", {}))

    def patch(self, **spec: Any) -> None:
        self.kubectl("patch", "tj", "walk", "-n", self.namespace, "--type=merge", "-p", json.dumps({"spec": spec}))

    def until(self, done: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        end_s = time.monotonic() + _PATIENCE_S
        while not done(status := self.status()):
            assert time.monotonic() < end_s, json.dumps(status, indent=1)
            time.sleep(0.5)
        return status

    def wait(self, condition: str) -> None:
        call = ("wait", "tj/walk", "-n", self.namespace, f"--for={condition}", f"--timeout={_WAIT_S}s")
        end_s = time.monotonic() + _PATIENCE_S
        while self.kubectl.run(*call, check=False).returncode != 0:
            assert time.monotonic() < end_s, json.dumps(self.status(), indent=1)
            time.sleep(0.5)


def test_a_job_from_apply_to_delete(kubectl: Kubectl, namespace: str, image: str) -> None:
    walk = Walk(kubectl, namespace)
    kubectl("create", "-f", "-", stdin=json.dumps(job(namespace, image)))
    walk.wait("jsonpath={.status.state}=Running")
    status = walk.until(lambda status: status.get("counts", {}).get("done", 0) >= 2)
    assert status["best"]["metric"] == "value" and not status["best"]["confirmed"]
    assert status["jobId"] == kubectl("get", "tj", "walk", "-n", namespace, "-o", "jsonpath={.metadata.uid}")
    row = re.split(r"\s{2,}", kubectl("get", "tj", "walk", "-n", namespace).splitlines()[1])
    assert row[1] == "Running" and re.match(r"search \d+/40", row[2])

    walk.patch(suspend=True)
    walk.wait("condition=Suspended")
    walk.until(lambda status: status["counts"]["leased"] == 0)
    held = walk.status()["counts"]["asked"]

    walk.patch(suspend=False, budget={"trials": 41})
    walk.wait("jsonpath={.status.state}=Running")
    walk.until(lambda status: status["counts"]["budget"] == 41 and status["counts"]["asked"] > held)
    told = {item["reason"] for item in kubectl.json("get", "events", "-n", namespace)["items"]}
    assert {"Created", "BestFound", "Suspended"} <= told

    kubectl("delete", "tj", "walk", "-n", namespace, "--timeout=100s")
    left = kubectl.json("get", "pods", "-n", namespace)["items"]
    assert [pod["metadata"]["name"] for pod in left if not pod["metadata"].get("deletionTimestamp")] == []


def test_a_spec_that_only_the_catalogue_can_judge_says_where(kubectl: Kubectl, namespace: str, image: str) -> None:
    kubectl("create", "-f", "-", stdin=json.dumps(job(namespace, image, sampler="guessing")))
    walk = Walk(kubectl, namespace)
    walk.wait("condition=Failed")
    assert "spec.sampler" in walk.status()["message"]
    kubectl("delete", "tj", "walk", "-n", namespace, "--timeout=100s")


def test_a_command_without_an_image_is_told_so(kubectl: Kubectl, namespace: str, image: str) -> None:
    target = {"kind": "command", "command": ["true", "{a}"]}
    kubectl("create", "-f", "-", stdin=json.dumps(job(namespace, image, target=target)))
    walk = Walk(kubectl, namespace)
    walk.wait("condition=Failed")
    status = walk.status()
    assert "spec.target.image" in status["message"] and status["state"] == "Failed"
    kubectl("delete", "tj", "walk", "-n", namespace, "--timeout=100s")
