"""One rolling update and one scale-down under load on the real cluster: shared by benchmark and end-to-end test."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster.cluster import Cluster
from devcluster.network import enter

ROOT = Path(__file__).resolve().parents[2]
NAME = "rolling"


@dataclass(frozen=True)
class Run:
    """What the clients saw, and which revisions served."""

    records: list[dict[str, Any]]
    revisions: tuple[str, str]

    @property
    def failed(self) -> list[str]:
        return [record["error"] for record in self.records if record["error"]]


def deployment(namespace: str, batched_tokens: int, replicas: int) -> dict[str, Any]:
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ServingDeployment",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "model": {"name": "tiny-random-llama", "source": "image:/models/tiny-random-llama.gguf"},
            "explicit": {
                "choices": [
                    {
                        "accelerator": accelerator,
                        "engine": "openvino",
                        "cpuMillicores": 300,
                        "knobs": {"maxNumBatchedTokens": batched_tokens},
                    }
                    for accelerator in ("cpu-x86-amx", "cpu-x86")
                ]
            },
            "replicas": replicas,
            "rollout": {"maxSurge": 1, "maxUnavailable": 0, "drainSeconds": 60},
        },
    }


def status(cluster: Cluster, namespace: str) -> dict[str, Any]:
    found = cluster.get("servingdeployment", NAME, "-n", namespace)
    return {"generation": found["metadata"]["generation"], **found.get("status", {})}


def wait_settled(cluster: Cluster, namespace: str, replicas: int, timeout_s: float = 180) -> dict[str, Any]:
    """Until `replicas` replicas of the current revision, and no others, are ready."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        now = status(cluster, namespace)
        counts = [now.get(field, 0) for field in ("replicas", "readyReplicas", "updatedReplicas")]
        if now.get("observedGeneration") == now["generation"] and counts == [replicas] * 3:
            return now
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not settled within {timeout_s:g} s: {json.dumps(now, indent=1)}")
        time.sleep(0.2)


def run(cluster: Cluster, namespace: str, duration_s: float, rate_per_s: float, *, keep_alive: bool = False) -> Run:
    """Load for `duration_s`; a sixth in, a new revision; after it has settled, one replica fewer."""
    cluster.apply([deployment(namespace, 256, 2)])
    first = wait_settled(cluster, namespace, 2)
    address = cluster.get("service", NAME, "-n", namespace)["spec"]["clusterIP"]
    command = [
        *enter(cluster.plan),
        *(sys.executable, "-m", "tests.perf.serving_load", f"http://{address}:8000"),
        *("--model", "tiny-random-llama", "--rate", str(rate_per_s), "--duration-s", str(duration_s)),
        *(["--keep-alive"] if keep_alive else []),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
        try:
            time.sleep(duration_s / 6)  # the load itself is the clock here
            cluster.apply([deployment(namespace, 128, 2)])
            second = wait_settled(cluster, namespace, 2)
            cluster.kubectl("scale", "servingdeployment", NAME, "-n", namespace, "--replicas=1")
            wait_settled(cluster, namespace, 1)
            output, _ = client.communicate(timeout=duration_s + 180)
        except BaseException:
            client.kill()
            raise
    return Run(json.loads(output), (first["revision"], second["revision"]))
