"""A calibration installed in the real cluster: operator and API plan with it, a broken one changes nothing, and without
it the shipped one is back. Each step waits for the kubelets, which bring a changed ConfigMap within about a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import ROOT, Kubectl
from tests.integration.test_serving_auto import SYSTEM, TINY, api, create, settled, status_of, wait
from tuner.serving.calibration.parameters import Effect, digest_of, dump_calibration, load_calibration

__all__ = ["api"]  # the fixture
pytestmark = pytest.mark.cluster
CONFIG_MAP = "trimtab-calibration"
# The kubelet's sync period (a minute, with jitter), our own look (10 s), the operator's pause before it plans again
# (a minute), and a plan.
PATIENCE_S = 300.0


def trimtab(kubectl: Kubectl, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "controlplane", *words],
        cwd=ROOT, env={**os.environ, **kubectl.env}, text=True, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def calibrated(kubectl: Kubectl) -> Iterator[None]:
    """Only where nobody has installed one; and none is left."""
    if kubectl.run("get", "configmap", CONFIG_MAP, "-n", SYSTEM, check=False).returncode == 0:
        pytest.skip(f"a calibration is installed in this cluster: {SYSTEM}/{CONFIG_MAP}")
    yield
    kubectl("delete", "configmap", CONFIG_MAP, "-n", SYSTEM, "--ignore-not-found")


def question(kinds: list[str]) -> dict[str, Any]:
    return {
        "model": TINY["name"],
        "slo": {"ttftMs": {"p95": 20_000}, "tpotMs": {"p95": 5_000}},
        "workload": {"arrivals": "closed", "concurrency": 2, "input": {"tokens": 64}, "output": {"tokens": 32}},
        "pools": [{"name": "what-if", "accelerator": kinds[0], "free": 1}],
        "allowed": {"accelerators": kinds, "engines": ["openvino"]},
    }


def wait_for(what: Callable[[], Any], done: Callable[[Any], bool], within_s: float = PATIENCE_S) -> Any:
    until, seen = time.monotonic() + within_s, None
    while time.monotonic() < until:
        seen = what()
        if done(seen):
            return seen
        time.sleep(2)
    raise AssertionError(f"not within {within_s:g} s: {json.dumps(seen)[:3000]}")


def test_installed_broken_and_removed(
    kubectl: Kubectl, namespace: str, api: httpx.Client, calibrated: None, tmp_path: Path
) -> None:
    pools = kubectl.json("get", "gpupools")["items"]
    cpus = {pool["status"].get("accelerator", "") for pool in pools if pool["status"].get("freeAccelerators")}
    kinds = sorted(kind for kind in cpus if kind.startswith("cpu-"))
    if not kinds:
        pytest.skip("no free whole core in any CPU pool")
    asked = question(kinds)
    create(
        kubectl, namespace, "tiny", model=TINY, slo=asked["slo"], workload=asked["workload"],
        auto={"allowed": {"accelerators": kinds, "maxAccelerators": 1}},
    )  # fmt: skip
    wait(kubectl, namespace, "tiny", settled)
    shipped = load_calibration()
    pods = kubectl("get", "pods", "-n", namespace, "-o", "name")

    def in_status() -> dict[str, Any]:
        plan: dict[str, Any] = status_of(kubectl, namespace, "tiny")["plan"]
        return plan

    # One that was removed a minute ago may still be in the pods.
    unmeasured = {"name": shipped.name, "digest": digest_of(shipped), "source": "shipped"}
    first = wait_for(in_status, lambda plan: plan["calibration"] == unmeasured)

    def over_the_api() -> dict[str, Any]:
        answer = api.post("/v1/plans", json=asked).raise_for_status()
        where = answer.headers.get("Location")
        job = wait_for(lambda: answer.json() if where is None else api.get(where).json(), lambda job: "plan" in job)
        plan: dict[str, Any] = job["plan"]
        return plan

    before = wait_for(over_the_api, lambda plan: plan["calibration"] == unmeasured)

    # Installed: another second before the queue, for this engine alone.
    slow = Effect(when={"engine": "openvino"}, knob="request_ms", value=500.0, rows=3)
    mine = shipped.model_copy(update={"name": "measured in a test", "effects": [*shipped.effects, slow]})
    file = tmp_path / "mine.json"
    file.write_text(dump_calibration(mine))
    said = trimtab(kubectl, "calibrate", "install", str(file))
    assert digest_of(mine) in said
    assert "warning" not in said
    now = {"name": "measured in a test", "digest": digest_of(mine), "source": "installed"}
    planned = wait_for(in_status, lambda plan: plan["calibration"] == now)
    was = first["candidates"][0]["prediction"]["ttftMs"]["mean"]
    assert planned["candidates"][0]["prediction"]["ttftMs"]["mean"] == pytest.approx(was + 500, rel=0.05)
    assert planned["plannedTime"] > first["plannedTime"]
    answered = wait_for(over_the_api, lambda plan: plan["calibration"] == now)
    mean = before["best"][0]["prediction"]["ttftMs"]["mean"]
    assert answered["best"][0]["prediction"]["ttftMs"]["mean"] == pytest.approx(mean + 500, rel=0.05)
    assert api.get("/metrics").status_code == 200
    assert f'digest="{digest_of(mine)}"' in api.get("/metrics").text

    # Broken: told, and the shipped one plans.
    kubectl("patch", "configmap", CONFIG_MAP, "-n", SYSTEM, "--type=merge", "-p", '{"data":{"calibration.json":"{"}}')
    broken = wait_for(over_the_api, lambda plan: plan["calibration"]["source"] == "shipped")
    assert "calibration.json: not a calibration" in broken["calibration"]["problem"]
    assert broken["best"][0]["prediction"]["ttftMs"]["mean"] == mean
    wait_for(in_status, lambda plan: plan["calibration"]["digest"] == digest_of(shipped))
    (condition,) = [item for item in status_of(kubectl, namespace, "tiny")["conditions"] if item["type"] == "Planned"]
    assert condition["status"] == "True"
    assert "not a calibration" in condition["message"]
    assert "trimtab_planner_calibration_unusable 1.0" in api.get("/metrics").text

    # Removed: nothing to complain about, and nothing has moved.
    assert "removed" in trimtab(kubectl, "calibrate", "uninstall")
    wait_for(over_the_api, lambda plan: "problem" not in plan["calibration"])
    assert kubectl("get", "pods", "-n", namespace, "-o", "name") == pods
