"""Tuning jobs on the installed release: what they name has to be there and be the caller's to read; hardware is waited for;
answers are compared; a bundle is measured again."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from devcluster.cluster import Cluster
from tests.integration.conftest import Kubectl

pytestmark = pytest.mark.cluster
_PATIENCE_S = 600.0
MODEL = "/models/tiny-random-llama.gguf"
QUICK = {"requests": 10, "warmUpRequests": 2, "runsMax": 1, "confirmTop": 1, "confirmRuns": 3}


def job(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    given = {
        "target": {"kind": "engine", "engine": "openvino", "model": MODEL},
        "objectives": [{"metric": "output_tokens_per_s"}],
        "load": {"arrivals": "closed", "concurrency": 2, "input": {"tokens": 32}, "output": {"tokens": 8}},
        "space": {"parameters": [{"kind": "int", "name": "maxNumBatchedTokens", "low": 64, "high": 512}]},
        "budget": {"trials": 1},
        "sampler": "random",
        "measuring": QUICK,
        "pods": {"besideLive": True, "pools": ["cpu"]},
        **spec,
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "trimtab.dev/v1alpha1", "kind": "TuningJob", "metadata": metadata, "spec": given}


class Lab:
    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self.kubectl, self.namespace = kubectl, namespace

    def status(self, name: str) -> dict[str, Any]:
        return dict(self.kubectl.json("get", "tj", name, "-n", self.namespace).get("status", {}))

    def reason(self, name: str) -> str:
        found = {item["type"]: item["reason"] for item in self.status(name).get("conditions", ())}
        return str(found.get("Complete", ""))

    def until(self, holds: Callable[[], object], what: str) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline_s, f"not within {_PATIENCE_S:g} s: {what}"
            time.sleep(0.5)

    def over(self, name: str) -> dict[str, Any]:
        self.until(lambda: self.status(name).get("state") in ("Done", "Failed", "Paused"), f"{name} to end")
        return self.status(name)


@pytest.fixture
def lab(kubectl: Kubectl, make_namespace: Callable[[str], str]) -> Lab:
    if kubectl.run("get", "deploy", "trimtab-tuning-worker", "-n", "trimtab-system", check=False).returncode != 0:
        pytest.skip("the cluster has no tuning workers: install the chart with tuning.enabled")
    lab = Lab(kubectl, make_namespace("tune-d"))
    lab.until(
        lambda: kubectl.run("get", "sa", "default", "-n", lab.namespace, check=False).returncode == 0, "an account"
    )
    return lab


def test_a_pool_and_an_account_that_are_not_there_are_waited_for_and_named(lab: Lab) -> None:
    lab.kubectl.apply(job(lab.namespace, "nowhere", pods={"pools": ["cpv"]}))
    lab.kubectl.apply(job(lab.namespace, "nobody", pods={"serviceAccount": "runner", "besideLive": True}))
    lab.until(lambda: lab.reason("nowhere") == "WaitingForPool", "a condition")
    lab.until(lambda: lab.reason("nobody") == "WaitingForAccount", "a condition")
    said = lab.status("nowhere")["message"]
    assert "spec.pods.pools[0]" in said and "cpu" in said.split("allowed: ")[1] and "did you mean cpu" in said
    assert "jobId" not in lab.status("nowhere")
    said = lab.status("nobody")["message"]
    assert f"kubectl create serviceaccount runner -n {lab.namespace}" in said
    seen = lab.kubectl("get", "events", "-n", lab.namespace, "-o", "jsonpath={.items[*].reason}").split()
    assert {"WaitingForPool", "WaitingForAccount"} <= set(seen)
    lab.kubectl("create", "serviceaccount", "runner", "-n", lab.namespace)
    lab.until(lambda: lab.status("nobody").get("jobId"), "its job")


def test_who_may_not_get_a_deployment_may_not_tune_it(lab: Lab) -> None:
    kubectl, namespace = lab.kubectl, lab.namespace
    verbs = [
        ("jobs", "create,get,list,patch", "tuningjobs.trimtab.dev"),
        ("pods", "create", "pods"),
        ("accounts", "get", "serviceaccounts"),
    ]
    for name, verb, resource in verbs:
        kubectl("create", "role", name, "-n", namespace, f"--verb={verb}", f"--resource={resource}")
        kubectl("create", "rolebinding", name, "-n", namespace, f"--role={name}", "--user=dora")
    body = job(namespace, "theirs", target={"kind": "deployment", "name": "chat"})

    def create() -> subprocess.CompletedProcess[str]:
        return kubectl.run("create", "--as=dora", "--dry-run=server", "-f", "-", stdin=json.dumps(body), check=False)

    refused = create()
    assert refused.returncode != 0 and 'needs the right to get servingdeployment "chat"' in refused.stderr
    other = ["--verb=get", "--resource=servingdeployments.trimtab.dev"]
    kubectl("create", "role", "one", "-n", namespace, *other, "--resource-name=other")
    kubectl("create", "rolebinding", "one", "-n", namespace, "--role=one", "--user=dora")
    assert create().returncode != 0
    kubectl("create", "role", "chat", "-n", namespace, *other, "--resource-name=chat")
    kubectl("create", "rolebinding", "chat", "-n", namespace, "--role=chat", "--user=dora")
    lab.until(lambda: create().returncode == 0, "the right to be known")
    engine = kubectl.run(
        "create", "--as=dora", "--dry-run=server", "-f", "-", stdin=json.dumps(job(namespace, "engine")), check=False
    )
    assert engine.returncode == 0, engine.stderr


def test_a_wait_that_is_longer_than_an_attempt_costs_none(lab: Lab) -> None:
    kubectl, namespace = lab.kubectl, lab.namespace
    kubectl("create", "quota", "none", "-n", namespace, "--hard=pods=0")
    program = {"kind": "command", "command": ["python3", "-c", "print('value={a}')"]}
    image = kubectl(
        "get", "deploy", "-n", "trimtab-system", "-l", "app.kubernetes.io/name=trimtab",
        "-o", "jsonpath={.items[0].spec.template.spec.containers[0].image}",
    )  # fmt: skip
    space = {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 1}]}
    measuring: dict[str, int] = {"timeoutS": 15, "attempts": 1, "runsMax": 1, "confirmTop": 1, "confirmRuns": 3}
    objectives = [{"metric": "value"}]
    kubectl.apply(
        job(
            namespace,
            "waits",
            target={**program, "image": image},
            space=space,
            measuring=measuring,
            objectives=objectives,
        )
    )
    lab.until(lambda: lab.reason("waits") == "WaitingForHardware", "a condition")
    assert "exceeded quota" in lab.status("waits")["message"]
    time.sleep(2 * measuring["timeoutS"])
    counts = lab.status("waits")["counts"]
    assert (counts["asked"], counts["failed"]) == (1, 0)
    kubectl("delete", "quota", "none", "-n", namespace)
    found = lab.over("waits")
    assert found["state"] == "Done" and found["counts"]["failed"] == 0 and found["counts"]["done"] >= 1, found


def test_answers_are_compared_and_a_bundle_is_measured_again(lab: Lab, tmp_path: Path) -> None:
    kubectl, namespace = lab.kubectl, lab.namespace
    precision = {"kind": "choice", "name": "kvCachePrecision", "values": ["u8", "f32"], "changesOutput": True}
    limits = [{"metric": "token_agreement", "atLeast": 0.9}, {"metric": "failed_requests", "atMost": 0}]
    # A batch of its own: another configuration in use than any other job's, so that its reference is not known yet.
    space = {"parameters": [precision], "fixed": {"maxNumBatchedTokens": 64 + int(time.time()) % 4000}}
    wanted = {"mayChangeOutput": ["kvCachePrecision"], "budget": {"trials": 2}, "sampler": "grid"}
    kubectl.apply(job(namespace, "precise", space=space, limits=limits, **wanted))
    names: set[str] = set()

    def over() -> bool:
        names.update(kubectl("get", "pods", "-n", namespace, "-o", "jsonpath={.items[*].metadata.name}").split())
        return lab.status("precise").get("state") in ("Done", "Failed", "Paused")

    lab.until(over, "the job to end")
    found = lab.status("precise")
    assert found["state"] == "Done" and found["best"]["confirmed"], found
    assert len([name for name in names if name.endswith("-0-1-in-use")]) == 1
    assert not [name for name in names if name.endswith("-in-use") and not name.endswith("-0-1-in-use")]
    url = f"http://127.0.0.1:{Cluster.open(os.environ.get('TRIMTAB_CLUSTER', 'dev')).plan.ports['api']}"
    path = f"{url}/v1/tuning-jobs/{found['jobId']}/bundle"
    answer = httpx.get(path, headers=_somebody(kubectl, namespace), timeout=30)
    assert answer.status_code == 200, answer.text
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        tar.extractall(tmp_path, filter="data")
    agreed = [
        one["measurement"]["metrics"]["token_agreement"]
        for one in json.loads((tmp_path / "precise" / "measurements.json").read_text())
    ]
    assert agreed and all(0.9 <= one <= 1.0 for one in agreed)
    again = subprocess.run(
        [tmp_path / "precise" / "run-again.sh"], env=kubectl.env, capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert "precise-again-" in again.stdout and "Done" in again.stdout


def _somebody(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    """Headers of an account with the cluster's own `edit` role in the namespace."""
    kubectl("create", "serviceaccount", "tuner", "-n", namespace)
    role = ["--clusterrole=edit", f"--serviceaccount={namespace}:tuner"]
    kubectl("create", "rolebinding", "tuner", "-n", namespace, *role)
    claims = kubectl("create", "token", "default", "-n", "default").split(".")[1]
    (server,) = json.loads(base64.urlsafe_b64decode(claims + "=="))["aud"]
    flags = ["--audience=trimtab", f"--audience={server}"]
    return {"Authorization": f"Bearer {kubectl('create', 'token', 'tuner', '-n', namespace, *flags).strip()}"}
