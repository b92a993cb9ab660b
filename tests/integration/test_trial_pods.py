"""Trials in pods of a real cluster: measured, cancelled, and of a worker that is killed nothing is left."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controlplane.cluster_thread import ClusterThread
from controlplane.model import labels
from controlplane.model.tuning import TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask, TrialRecord
from controlplane.store.database import Database, open_database
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.tuning_embedded import utc_now
from controlplane.tuning_pods import ClusterPods
from controlplane.tuning_sweep import PodSweep
from operators.serving.render import RenderSettings
from tests.integration.conftest import ROOT, Kubectl
from tests.integration.pod_worker import LEASE_S

pytestmark = pytest.mark.cluster
_PATIENCE_S = 240.0


@dataclass
class Lab:
    """A database of its own, and workers from this tree on the cluster."""

    kubectl: Kubectl
    namespace: str
    image: str
    url: str
    database: Database

    def ask(self, job: str, program: str, **pods: Any) -> str:
        spec = TuningSpec.model_validate(
            {
                "target": {"kind": "command", "command": ["python3", "-c", program], "image": self.image},
                "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 9}]},
                "objectives": [{"metric": "value"}],
                "measuring": {"timeoutS": 60},
                "pods": {"besideLive": True, "pools": ["cpu"], **pods},
            }
        )
        Jobs(self.database).create(job, tenant=self.namespace, name=job, spec=spec, now=utc_now())
        asked = [Ask(number=0, setting={"a": 4}, canonical="c", why="", seed=1)]
        assert Studies(self.database).append(job, asked, now=utc_now())
        return f"{job}/0"

    def worker(self, trial: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.integration.pod_worker", self.url, self.namespace, trial]
        return subprocess.Popen(command, cwd=ROOT, env=self.kubectl.env)

    def trial(self, job: str) -> TrialRecord:
        return Studies(self.database).trials_from(job, 0)[0]

    def pods(self) -> list[dict[str, Any]]:
        found = self.kubectl.json("get", "pods", "-n", self.namespace, "-l", labels.TRIAL)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def until(holds: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {_PATIENCE_S:g} s: {what}"
        time.sleep(0.25)


@pytest.fixture
def lab(kubectl: Kubectl, make_namespace: Callable[[str], str], tmp_path: Path) -> Iterator[Lab]:
    namespace = make_namespace("tune-b")
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    until(lambda: kubectl.run("get", "sa", "default", "-n", namespace, check=False).returncode == 0, "an account")
    image = kubectl(
        "get", "deploy", "-n", "trimtab-system", "-l", "app.kubernetes.io/name=trimtab",
        "-o", "jsonpath={.items[0].spec.template.spec.containers[0].image}",
    )  # fmt: skip
    url = f"sqlite:///{tmp_path}/t.db"
    database = open_database(url)
    upgrade(database)
    yield Lab(kubectl, namespace, image, url, database)
    database.close()


def test_a_command_is_measured_under_the_restricted_standard_and_its_pod_goes(lab: Lab) -> None:
    trial = lab.ask("fine", "print('value={a}')")
    assert lab.worker(trial).wait(_PATIENCE_S) == 0
    done = lab.trial("fine")
    assert done.state is TrialState.DONE and done.objectives == [4.0], done.reason
    assert lab.pods() == []


def test_an_account_that_is_not_there_is_named(lab: Lab) -> None:
    assert lab.worker(lab.ask("nobody", "print('value=1')", serviceAccount="nobody")).wait(_PATIENCE_S) == 0
    refused = lab.trial("nobody")
    assert refused.state is TrialState.WAITING and "nobody" in refused.reason and "not found" in refused.reason


def test_a_cancelled_job_ends_its_pod_within_a_renewal(lab: Lab) -> None:
    trial = lab.ask("long", "import time; time.sleep(50)")
    worker = lab.worker(trial)
    until(lab.pods, "a pod")
    Steering(lab.database).cancel("long", now=utc_now())
    begun_s = time.monotonic()
    assert worker.wait(_PATIENCE_S) == 0
    assert time.monotonic() - begun_s < LEASE_S + 20 and lab.pods() == []
    assert lab.trial("long").state is TrialState.CANCELLED


def test_what_a_killed_worker_leaves_is_swept_once_its_lease_is_over(lab: Lab) -> None:
    worker = lab.worker(lab.ask("orphan", "import time; time.sleep(50)"))
    until(lab.pods, "a pod")
    cluster = ClusterThread(lab.kubectl.env["KUBECONFIG"])
    try:
        sweep = PodSweep(ClusterPods(cluster, RenderSettings(), lab.namespace), Trials(lab.database), utc_now)
        assert sweep.once() == 0 and len(lab.pods()) == 1  # somebody holds it
        worker.kill()
        worker.wait()
        until(lambda: sweep.once() == 1, "the lease to run out")
        assert lab.pods() == []
    finally:
        cluster.close()


def test_an_engine_in_a_pod_is_measured_by_the_installed_workers(lab: Lab) -> None:
    kubectl, namespace = lab.kubectl, lab.namespace
    workers = kubectl.run("get", "deploy", "trimtab-tuning-worker", "-n", "trimtab-system", check=False)
    if workers.returncode != 0:
        pytest.skip("the cluster has no tuning workers: install the chart with tuning.enabled")
    spec = {
        "target": {"kind": "engine", "engine": "openvino", "model": "/models/tiny-random-llama.gguf"},
        "objectives": [{"metric": "output_tokens_per_s"}],
        "load": {"arrivals": "closed", "concurrency": 2, "input": {"tokens": 32}, "output": {"tokens": 8}},
        "budget": {"trials": 1},
        "sampler": "random",
        "measuring": {"requests": 10, "warmUpRequests": 2, "runsMax": 1},
        "pods": {"besideLive": True},
    }
    job = {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": "real", "namespace": namespace},
    }
    kubectl.apply({**job, "spec": spec})

    def status() -> dict[str, Any]:
        return dict(kubectl.json("get", "tj", "real", "-n", namespace).get("status", {}))

    until(lambda: status().get("counts", {}).get("done"), "a measured trial")
    assert status()["best"]["value"] > 0
    kubectl("delete", "tj", "real", "-n", namespace, "--timeout=100s")
    until(lambda: not lab.pods(), "its pods to go")
