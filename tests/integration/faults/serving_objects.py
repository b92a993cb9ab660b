"""Deployments, pools and simulated nodes of the fault tests, and what must be true of them at rest."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from typing import Any

from tests.integration.faults.rest import Refused, Rest, eventually

GROUP = "/apis/trimtab.dev/v1alpha1"
PATIENCE_S = 90.0


def gpu_spec(
    pool: str, *, replicas: int = 1, tensor_parallel: int = 8, nodes_per_replica: int = 1, **changes: Any
) -> dict[str, Any]:
    """vLLM on the L40S of one pool: simulated nodes, where every image starts at once."""
    shape = {"tensorParallel": tensor_parallel, "pipelineParallel": nodes_per_replica}
    choice = {"accelerator": "l40s", "engine": "vllm", "pools": [pool], **shape}
    return {
        "model": {"name": "llama-3.1-8b", "source": "hf:meta-llama/Llama-3.1-8B"},
        "explicit": {"choices": [choice]},
        "replicas": replicas,
        "rollout": {"maxSurge": 1, "maxUnavailable": 0, "drainSeconds": 5},
        **changes,
    }


def cpu_spec(
    *, replicas: int = 1, image: str | None = None, batched_tokens: int = 256, **changes: Any
) -> dict[str, Any]:
    """The embedded engine with its built-in model on the real nodes."""
    shape: dict[str, Any] = {
        "engine": "openvino",
        "cpuMillicores": 300,
        "knobs": {"maxNumBatchedTokens": batched_tokens},
    }
    if image is not None:
        shape["image"] = image
    return {
        "model": {"name": "tiny-random-llama", "source": "image:/models/tiny-random-llama.gguf"},
        "explicit": {"choices": [{"accelerator": a, **shape} for a in ("cpu-x86-amx", "cpu-x86")]},
        "replicas": replicas,
        "rollout": {"maxSurge": 1, "maxUnavailable": 0, "drainSeconds": 10},
        **changes,
    }


class Serving:
    """One ServingDeployment of a test. `ranks`: pods of a replica."""

    def __init__(self, rest: Rest, namespace: str, name: str) -> None:
        self.rest, self.namespace, self.name = rest, namespace, name
        self.ranks = 1
        self.path = f"{GROUP}/namespaces/{namespace}/servingdeployments/{name}"

    def create(self, spec: dict[str, Any]) -> None:
        metadata = {"name": self.name, "namespace": self.namespace}
        body = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ServingDeployment", "metadata": metadata, "spec": spec}
        self.rest.create(self.path.rpartition("/")[0], body)

    def patch(self, **spec: Any) -> None:
        self.rest.merge(self.path, {"spec": spec})

    def new_revision(self, number: int) -> None:
        """A knob of every choice changes."""
        choices = self.get()["spec"]["explicit"]["choices"]
        for choice in choices:
            knob = "maxNumBatchedTokens" if choice["engine"] == "openvino" else "maxNumSeqs"
            choice["knobs"] = {knob: number}
        self.patch(explicit={"choices": choices})

    def delete(self) -> None:
        self.rest.delete(self.path)

    def get(self) -> Any:
        return self.rest.get(self.path)

    def pods(self) -> list[Any]:
        """All that carry its name, leaving ones too."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=trimtab.dev/deployment%3D{self.name}"
        return self.rest.items(path)

    def pod(self) -> Any:
        """The only one that stays."""
        (pod,) = [pod for pod in self.pods() if not leaving(pod)]
        return pod

    def condition(self, kind: str = "Ready") -> dict[str, str]:
        """Empty before it has been judged in its present generation."""
        found = self.get()
        status = found.get("status", {})
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return {}
        return next((c for c in status.get("conditions", []) if c["type"] == kind), {})

    def wait_condition(self, reason: str, *, kind: str = "Ready", patience_s: float = PATIENCE_S) -> dict[str, str]:
        def look() -> dict[str, str]:
            found = self.condition(kind)
            return found if found.get("reason") == reason else {}

        return eventually(look, patience_s, lambda: f"{kind}={reason} of {self.name}; it is {self.shown()}")

    def settled(self, replicas: int) -> bool:
        """All replicas of the current revision ready, no other pod there, and the status says so."""
        found = self.get()
        status = found.get("status", {})
        counts = [status.get(field, 0) for field in ("replicas", "readyReplicas", "updatedReplicas")]
        if status.get("observedGeneration") != found["metadata"]["generation"] or counts != [replicas] * 3:
            return False
        pods = self.pods()
        return len(pods) == replicas * self.ranks and all(ready(pod) and not leaving(pod) for pod in pods)

    def wait_settled(self, replicas: int, patience_s: float = PATIENCE_S) -> None:
        eventually(
            lambda: self.settled(replicas), patience_s, lambda: f"{replicas} settled replicas; it is {self.shown()}"
        )
        self.check(replicas)

    def shown(self) -> str:
        try:
            pods = [
                f"{p['metadata']['name']} {'leaving ' if leaving(p) else ''}{'ready' if ready(p) else 'not ready'} "
                f"on {p['spec'].get('nodeName')}"
                for p in self.pods()
            ]
            return json.dumps(self.get().get("status"), indent=1) + "\npods: " + "\n".join(pods)
        except (OSError, Refused) as error:
            return str(error)

    def owned(self) -> dict[str, Any]:
        """Service and budget of its name."""
        base = f"/namespaces/{self.namespace}"
        return {
            "service": self.rest.find(f"/api/v1{base}/services/{self.name}"),
            "budget": self.rest.find(f"/apis/policy/v1{base}/poddisruptionbudgets/{self.name}"),
        }

    def check(self, replicas: int) -> None:
        """No orphan, no duplicate, everything owned by this very object."""
        found = self.get()
        uid = found["metadata"]["uid"]
        places = Counter(place(pod) for pod in self.pods())
        assert [where for where, count in places.items() if count > 1] == []
        assert {owner(pod) for pod in self.pods()} <= {uid}
        assert {name: owner(item) for name, item in self.owned().items()} == {"service": uid, "budget": uid}
        assert found["status"]["conditions"] and found["status"]["replicas"] == replicas

    def wait_gone(self, patience_s: float = PATIENCE_S) -> None:
        """It and all it owned."""

        def look() -> bool:
            return self.rest.find(self.path) is None and not self.pods() and not any(self.owned().values())

        eventually(look, patience_s, lambda: f"everything of {self.name} to be gone: {len(self.pods())} pods")


def leaving(pod: Any) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def ready(pod: Any) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def owner(item: Any) -> str | None:
    return next(
        (r["uid"] for r in (item or {}).get("metadata", {}).get("ownerReferences", []) if r.get("controller")), None
    )


def place(pod: Any) -> tuple[str, str, str]:
    labels = pod["metadata"]["labels"]
    return (labels["trimtab.dev/revision"], labels["trimtab.dev/replica"], labels["trimtab.dev/rank"])


class GpuNodes:
    """A pool of simulated nodes with L40S, nobody else's. `names` are its nodes."""

    def __init__(self, rest: Rest, nodes: int, gpus: int = 8) -> None:
        self._rest = rest
        self._gpus = gpus
        self.pool = f"f-{secrets.token_hex(3)}"
        self.path = f"{GROUP}/gpupools/{self.pool}"
        self.names = [f"{self.pool}-{n}" for n in range(nodes)]

    def create(self) -> None:
        for name in self.names:
            self.add(name)
        pool = {
            "apiVersion": "trimtab.dev/v1alpha1",
            "kind": "GPUPool",
            "metadata": {"name": self.pool},
            "spec": {
                "nodeSelector": {"matchLabels": {"test.trimtab.dev/pool": self.pool}},
                "tolerations": [{"key": "kwok.x-k8s.io/node", "effect": "NoSchedule"}],
            },
        }
        self._rest.create(f"{GROUP}/gpupools", pool)

    def add(self, name: str) -> None:
        amounts = {
            "cpu": "64",
            "memory": "512Gi",
            "pods": "110",
            "nvidia.com/gpu": str(self._gpus),
            "ephemeral-storage": "1Ti",
        }
        labels = {
            "kubernetes.io/hostname": name,
            "nvidia.com/gpu.product": "NVIDIA-L40S",
            "test.trimtab.dev/pool": self.pool,
        }
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": labels},
            "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
        }
        self._rest.create("/api/v1/nodes", node)
        self._rest.merge(f"/api/v1/nodes/{name}/status", {"status": {"capacity": amounts, "allocatable": amounts}})

    def patch(self, name: str, spec: dict[str, Any]) -> None:
        self._rest.merge(f"/api/v1/nodes/{name}", {"spec": spec})

    def drop(self, name: str) -> None:
        self._rest.delete(f"/api/v1/nodes/{name}")

    def delete(self) -> None:
        self._rest.delete(self.path)
        for name in self.names:
            self.drop(name)
