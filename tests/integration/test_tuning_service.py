"""The tuning service of the chart on a real cluster: rights of who asks, and a database and a broker that go away.

It works on the installed release: jobs and their pods are in a namespace of their own, database and broker are those that
other tests use, too.
"""

import base64
import json
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from devcluster.cluster import Cluster
from tests.integration.conftest import Kubectl

pytestmark = pytest.mark.cluster

SYSTEM = "trimtab-system"
RELEASE = "trimtab"


def job_body(namespace: str, image: str) -> dict[str, Any]:
    """A command that takes no time; its pods come and go."""
    return {
        "namespace": namespace,
        "name": f"job-{secrets.token_hex(3)}",
        "spec": {
            "target": {"kind": "command", "command": ["python3", "-c", "print('value={a}')"], "image": image},
            "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 100}]},
            "objectives": [{"metric": "value"}],
            "budget": {"trials": 2},
            "measuring": {"runsMax": 1, "confirmRuns": 3, "confirmTop": 1},
            "pods": {"besideLive": True},
        },
    }


@pytest.fixture(scope="module")
def url() -> str:
    return f"http://127.0.0.1:{Cluster.open(os.environ.get('TRIMTAB_CLUSTER', 'dev')).plan.ports['api']}"


@pytest.fixture
def user(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    """Headers of somebody with the cluster's own `edit` role in the namespace."""
    kubectl("create", "serviceaccount", "tuner", "-n", namespace)
    kubectl(
        "create", "rolebinding", "tuner", "-n", namespace, "--clusterrole=edit", f"--serviceaccount={namespace}:tuner"
    )
    claims = kubectl("create", "token", "default", "-n", "default").split(".")[1]
    (server,) = json.loads(base64.urlsafe_b64decode(claims + "=="))["aud"]
    flags = ["--audience=trimtab", f"--audience={server}"]
    return {"Authorization": f"Bearer {kubectl('create', 'token', 'tuner', '-n', namespace, *flags).strip()}"}


def eventually(check: Callable[[], object], what: str, patience_s: float = 300) -> None:
    deadline_s = time.monotonic() + patience_s
    while not check():
        assert time.monotonic() < deadline_s, f"{what}: not within {patience_s:g} s"
        time.sleep(0.2)


def workloads(kubectl: Kubectl) -> dict[str, bool]:
    """Which of the service's workloads have all the pods they want, ready."""
    found = kubectl.json("get", "deployments,statefulsets", "-n", SYSTEM, "-l", f"app.kubernetes.io/instance={RELEASE}")
    return {
        item["metadata"]["name"].removeprefix(f"{RELEASE}-"): item["status"].get("readyReplicas", 0)
        == item["spec"]["replicas"]
        for item in found["items"]
    }


def test_every_part_is_ready(kubectl: Kubectl) -> None:
    wanted = {"tuning-driver", "tuning-worker", "postgres", "redis"}
    eventually(lambda: {name for name, ready in workloads(kubectl).items() if ready} >= wanted, "all parts ready")


def test_who_may_not_make_pods_makes_no_tuning_job(kubectl: Kubectl, namespace: str) -> None:
    person = f"person-{namespace}"
    kubectl(
        "create", "role", "jobs", "-n", namespace, "--verb=create,patch,get,update", "--resource=tuningjobs.trimtab.dev"
    )
    kubectl("create", "rolebinding", "jobs", "-n", namespace, "--role=jobs", f"--user={person}")
    body = job_body(namespace, "localhost/nothing:1")
    job = {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": body["name"], "namespace": namespace},
        "spec": {**body["spec"], "suspend": True},
    }

    def made(*flags: str) -> str:
        done = kubectl.run("create", "-f", "-", "--as", person, *flags, stdin=json.dumps(job), check=False)
        return "" if done.returncode == 0 else done.stderr

    eventually(lambda: "to create pods in namespace" in made("--dry-run=server"), "the refusal", 10)
    assert "orbidden" in made("--dry-run=server")
    kubectl("create", "role", "pods", "-n", namespace, "--verb=create", "--resource=pods")
    kubectl("create", "rolebinding", "pods", "-n", namespace, "--role=pods", f"--user={person}")
    eventually(lambda: 'get service account "default"' in made("--dry-run=server"), "the account's name", 10)
    kubectl("create", "role", "account", "-n", namespace, "--verb=get", "--resource=serviceaccounts")
    kubectl("create", "rolebinding", "account", "-n", namespace, "--role=account", f"--user={person}")
    eventually(lambda: made("--dry-run=server") == "", "a job", 10)

    # Who lost the right since may no longer set it going, but the operator's writes still pass.
    assert made() == ""
    kubectl("delete", "rolebinding", "pods", "-n", namespace)
    going = ("patch", "tuningjob", body["name"], "-n", namespace, "--type=merge", "-p", '{"spec": {"suspend": false}}')
    eventually(
        lambda: "to create pods" in kubectl.run(*going, "--as", person, "--dry-run=server", check=False).stderr,
        "the refusal of a change",
        10,
    )
    label = ("label", "tuningjob", body["name"], "-n", namespace, "a=b", "--as", person)
    kubectl(*label)
    kubectl("delete", "tuningjob", body["name"], "-n", namespace, "--timeout=30s")


def test_a_database_and_a_broker_that_are_killed_lose_nothing(
    kubectl: Kubectl, namespace: str, url: str, user: dict[str, str]
) -> None:
    driver = kubectl.json("get", "deployment", f"{RELEASE}-tuning-driver", "-n", SYSTEM)
    image = driver["spec"]["template"]["spec"]["containers"][0]["image"]
    with httpx.Client(base_url=url, headers=user, timeout=30, trust_env=False) as client:
        listed = client.get("/v1/tuning-jobs", params={"namespace": namespace})
        assert (listed.status_code, listed.json()["items"]) == (200, [])
        made = client.post("/v1/tuning-jobs", json=job_body(namespace, image))
        assert made.status_code == 201, made.text
        job = f"/v1/tuning-jobs/{made.json()['id']}"
        assert client.post(f"{job}/pause").status_code == 200

        kubectl("delete", "pod", f"{RELEASE}-postgres-0", "-n", SYSTEM, "--grace-period=0", "--force")
        kubectl(
            "delete",
            "pod",
            "-n",
            SYSTEM,
            "-l",
            f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=redis",
        )
        codes: list[tuple[int, str]] = []

        def back() -> bool:
            answer = client.get(job)
            codes.append((answer.status_code, answer.json().get("code", "")))
            return answer.status_code == 200 and len(codes) > 1 and codes[-2][0] != 200

        eventually(back, "an outage and its end")
        assert {code for code in codes if code[0] != 200} <= {(503, "StoreUnreachable")}
        assert client.get("/readyz").status_code == 200, "what has nothing to do with tuning is served meanwhile"

        # The broker has forgotten every message: the driver finds the job in the database.
        assert client.post(f"{job}/resume").status_code == 200
        eventually(lambda: client.get(job).json()["state"] not in ("running", "paused", "queued"), "the job's end")
        ended = client.get(job).json()
        assert ended["state"] == "done", ended
        trials = client.get(f"{job}/trials").json()["items"]
        assert {trial["state"] for trial in trials} == {"done"}
        assert client.delete(job).status_code == 204
    eventually(lambda: not kubectl.json("get", "pods", "-n", namespace)["items"], "no pod left")
