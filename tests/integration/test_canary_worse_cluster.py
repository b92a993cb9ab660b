"""A change that is several times slower, on the real cluster under load: taken back by what it measures, with nobody's
request lost and the stable replicas never touched; the change the other way is promoted as better."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from devcluster.cluster import Cluster
from devcluster.network import enter
from tests.integration.conftest import ROOT, Kubectl

pytestmark = pytest.mark.cluster
PATIENCE_S = 600.0
NAME = "chat"
# A prompt of 256 tokens takes one step of 256, or 64 of 4: its first token comes several times later.
FAST, SLOW, PROMPT = 256, 4, 256
RATE_PER_S = 2.0


def deployment(namespace: str, tokens: int) -> dict[str, Any]:
    choices = [
        {"accelerator": name, "engine": "openvino", "cpuMillicores": 300, "knobs": {"maxNumBatchedTokens": tokens}}
        for name in ("cpu-x86-amx", "cpu-x86")
    ]
    hold = {"leastSeconds": 10, "mostSeconds": 1800, "windowSeconds": 5}
    # Wide beside what this machine scatters, narrow beside what the change does.
    canary = {"hold": hold, "verdict": {"metrics": ["ttft"], "notWorseThanPct": 50, "mustBeBetter": True}}
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ServingDeployment",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "model": {"name": "tiny-random-llama", "source": "image:/models/tiny-random-llama.gguf"},
            "replicas": 2,
            "explicit": {"choices": choices},
            "rollout": {"drainSeconds": 180, "canary": canary},
        },
    }


@contextmanager
def load(cluster: Cluster, address: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Requests at a steady rate, each on a connection of its own. Gives what ends them: a record of every request."""
    command = [
        *enter(cluster.plan),
        *(sys.executable, "-m", "tests.perf.serving_load", f"http://{address}:8000", "--model", "tiny-random-llama"),
        *("--rate", str(RATE_PER_S), "--duration-s", "3600", "--in-tokens", str(PROMPT), "--out-tokens", "8"),
    ]
    client = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def ends() -> list[dict[str, Any]]:
        client.terminate()
        records: list[dict[str, Any]] = json.loads(client.communicate(timeout=180)[0])
        return records

    try:
        yield ends
    finally:
        if client.poll() is None:
            client.kill()
        client.wait()


def reader(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    """Headers of somebody who may look at the namespace."""
    kubectl("create", "serviceaccount", "reader", "-n", namespace)
    grant = ("create", "rolebinding", "reader", "-n", namespace, "--clusterrole=view")
    kubectl(*grant, f"--serviceaccount={namespace}:reader")
    claims = kubectl("create", "token", "default", "-n", "default").split(".")[1]
    (server,) = json.loads(base64.urlsafe_b64decode(claims + "=="))["aud"]
    flags = ["--audience=trimtab", f"--audience={server}"]
    return {"Authorization": f"Bearer {kubectl('create', 'token', 'reader', '-n', namespace, *flags).strip()}"}


def test_a_slower_change_is_taken_back_by_its_latency_and_a_faster_one_promoted(
    kubectl: Kubectl, namespace: str
) -> None:
    cluster = Cluster.open(os.environ.get("TRIMTAB_CLUSTER", "dev"))
    before: dict[str, Any] = {}

    def status() -> dict[str, Any]:
        found: dict[str, Any] = kubectl.json("get", "servingdeployment", NAME, "-n", namespace).get("status", {})
        return found

    def until(true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        ends_s = time.monotonic() + PATIENCE_S
        while not true(found := status()):
            assert time.monotonic() < ends_s, json.dumps(found, indent=1)
            time.sleep(1)
        return found

    def ended(found: dict[str, Any]) -> bool:
        canary = found.get("canary", {})
        return canary.get("begunTime") != before.get("begunTime") and canary.get("phase") in ("Promoted", "RolledBack")

    def settled(found: dict[str, Any]) -> bool:
        counts = [found.get(field, 0) for field in ("replicas", "readyReplicas", "updatedReplicas")]
        return found.get("reason") == "AllReady" and counts == [2, 2, 2]

    def pods() -> dict[str, int]:
        found = kubectl.json("get", "pods", "-n", namespace, "-l", f"trimtab.dev/deployment={NAME}")["items"]
        return {
            pod["metadata"]["uid"]: sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))
            for pod in found
            if not pod["metadata"].get("deletionTimestamp")
        }

    kubectl.apply(deployment(namespace, SLOW))
    slow = until(settled)["revision"]
    address = kubectl.json("get", "service", NAME, "-n", namespace)["spec"]["clusterIP"]
    with load(cluster, address) as stop:
        kubectl.apply(deployment(namespace, FAST))
        found = until(ended)
        assert (found["canary"]["phase"], found["canary"]["reason"]) == ("Promoted", "Better"), found["canary"]
        assert found["canary"]["ttftRatioPct"]["hi"] < 0
        stable = until(lambda now: settled(now) and now["revision"] != slow)
        before = stable["canary"]
        serving = pods()

        kubectl.apply(deployment(namespace, SLOW))
        found = until(ended)
        canary = found["canary"]
        assert (canary["phase"], canary["reason"], canary["mode"]) == ("RolledBack", "Worse", "SideBySide"), canary
        assert canary["ttftRatioPct"]["lo"] > 50
        assert "90 % interval" in canary["message"]
        until(lambda now: now.get("reason") == "CanaryRolledBack" and now["replicas"] == now["readyReplicas"] == 2)
        assert pods() == serving, "no stable replica was touched"
        records = stop()
    failed = [record["error"] for record in records if record["error"]]
    assert not failed, f"{len(failed)} of {len(records)} requests failed: {failed[:3]}"

    shown = kubectl("get", "servingdeployment", NAME, "-n", namespace)
    assert "CanaryRolledBack" in shown
    url = f"http://127.0.0.1:{cluster.plan.ports['api']}/v1/namespaces/{namespace}/serving-deployments/{NAME}"
    answer = httpx.get(url, headers=reader(kubectl, namespace))
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"]["canary"]["message"] == canary["message"]
    events = kubectl.json("get", "events.v1.events.k8s.io", "-n", namespace)["items"]
    notes = {event["reason"]: event["note"] for event in events}
    assert "Worse: TTFT is shown worse" in notes["CanaryRolledBack"]
    assert "Better: TTFT -" in notes["CanaryPromoted"]
