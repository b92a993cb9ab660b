"""Canaries on the real cluster with real engines under load: one that crashes goes, one that is as good gets everything."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Kubectl

pytestmark = pytest.mark.cluster
PATIENCE_S = 600.0
MODEL = "image:/models/tiny-random-llama.gguf"
# Every request on a connection of its own: a Service sends connections, not requests.
CLIENT = """
import json, threading, time, urllib.request
counts = {"ok": 0, "failed": 0}
def one():
    body = json.dumps({"model": "tiny-random-llama", "prompt": "the of and to " * 8, "max_tokens": 4}).encode()
    request = urllib.request.Request("http://chat:8000/v1/completions", body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=60).read()
        counts["ok"] += 1
    except OSError:
        counts["failed"] += 1
while True:
    threading.Thread(target=one, daemon=True).start()
    time.sleep(0.4)
    print(json.dumps(counts), flush=True)
"""


def deployment(namespace: str, tokens: int, source: str = MODEL) -> dict[str, Any]:
    choices = [
        {"accelerator": name, "engine": "openvino", "cpuMillicores": 300, "knobs": {"maxNumBatchedTokens": tokens}}
        for name in ("cpu-x86-amx", "cpu-x86")
    ]
    # Bounds as wide as two cores shared with everything else ask for; what decides is tested without a cluster.
    hold = {"leastSeconds": 10, "mostSeconds": 600, "windowSeconds": 3}
    canary = {"hold": hold, "verdict": {"notWorseThanPct": 200}}
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ServingDeployment",
        "metadata": {"name": "chat", "namespace": namespace},
        "spec": {
            "model": {"name": "tiny-random-llama", "source": source},
            "explicit": {"choices": choices},
            "rollout": {"drainSeconds": 5, "canary": canary},
        },
    }


def client(namespace: str, image: str) -> dict[str, Any]:
    container = {"name": "client", "image": image, "command": ["python3", "-c", CLIENT]}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "namespace": namespace}, "spec": spec}


def test_a_crash_is_taken_back_and_a_good_change_is_promoted_in_turns(kubectl: Kubectl, namespace: str) -> None:
    def status() -> dict[str, Any]:
        found: dict[str, Any] = kubectl.json("get", "servingdeployment", "chat", "-n", namespace).get("status", {})
        return found

    def until(true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        ends_s = time.monotonic() + PATIENCE_S
        while not true(found := status()):
            assert time.monotonic() < ends_s, json.dumps(found, indent=1)
            time.sleep(1)
        return found

    kubectl.apply(deployment(namespace, 256))
    stable = until(lambda found: "stable" in found)["revision"]
    pods = kubectl.json("get", "pods", "-n", namespace, "-l", "trimtab.dev/deployment=chat")["items"]
    kubectl.apply(client(namespace, pods[0]["spec"]["containers"][0]["image"]))

    kubectl.apply(deployment(namespace, 256, "image:/models/none.gguf"))
    found = until(lambda found: found.get("canary", {}).get("phase") == "RolledBack")
    assert found["canary"]["reason"] == "Crashed"
    until(lambda found: found["reason"] == "CanaryRolledBack" and found["revision"] == stable)

    before = kubectl("logs", "-n", namespace, "client", "--tail=1")
    kubectl.apply(deployment(namespace, 128))
    found = until(lambda found: found.get("canary", {}).get("phase") == "Promoted")
    assert found["canary"]["mode"] == "InTurns"
    assert found["canary"]["ttftRatioPct"]["hi"] is not None
    found = until(lambda found: found["reason"] == "AllReady" and found["revision"] != stable)
    after = kubectl("logs", "-n", namespace, "client", "--tail=1")
    assert json.loads(after)["failed"] == json.loads(before)["failed"], "no request was lost on the way"
    events = kubectl.json("get", "events.v1.events.k8s.io", "-n", namespace)["items"]
    said = {event["reason"] for event in events}
    assert {"CanaryBegun", "CanaryRolledBack", "CanaryPromoted"} <= said
