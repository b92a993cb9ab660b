"""The objects of `bench_reconcile`: simulated nodes and a pool of their own, one ServingDeployment per object, and the
native Deployment, Service and PodDisruptionBudget of the very same pod."""

from __future__ import annotations

from typing import Any

BENCH_LABEL = "bench.trimtab.dev/reconcile"
POOL = "bench-reconcile"
NODES = 130
GPUS_PER_NODE = 8

Object = dict[str, Any]


def nodes() -> list[Object]:
    """kwok nodes that look like H100 machines and belong to no pool but ours."""
    amounts = {"cpu": "192", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": str(GPUS_PER_NODE)}
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": f"bench-reconcile-{number:03d}",
                "labels": {
                    BENCH_LABEL: "node",
                    "kubernetes.io/hostname": f"bench-reconcile-{number:03d}",
                    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
                    "nvidia.com/gpu.count": str(GPUS_PER_NODE),
                    "nvidia.com/gpu.present": "true",
                },
                "annotations": {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"},
            },
            "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
            "status": {"capacity": amounts, "allocatable": amounts},
        }
        for number in range(NODES)
    ]


def pool() -> Object:
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": POOL},
        "spec": {
            "nodeSelector": {"matchLabels": {BENCH_LABEL: "node"}},
            "tolerations": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}],
        },
    }


def serving_deployment(namespace: str, name: str, run: str) -> Object:
    choice = {"accelerator": "h100-sxm-80gb", "pools": [POOL], "engine": "vllm"}
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ServingDeployment",
        "metadata": {"name": name, "namespace": namespace, "labels": {BENCH_LABEL: run}},
        "spec": {
            "model": {"name": "llama-3.1-8b", "source": "image:/models/llama-3.1-8b"},
            "explicit": {"choices": [choice]},
        },
    }


class NativeShapes:
    """Deployment, Service and PodDisruptionBudget of the same shape as those our operator rendered for one object."""

    def __init__(self, pod: Object, service: Object, budget: Object) -> None:
        spec = {key: value for key, value in pod["spec"].items() if key not in ("nodeName", "affinity", "priority")}
        spec["nodeSelector"] = {BENCH_LABEL: "node"}
        self._pod_spec = spec
        self._pod_annotations = pod["metadata"].get("annotations", {})
        self._pod_labels = {
            key: value
            for key, value in pod["metadata"]["labels"].items()
            if not key.startswith("topology.kubernetes.io/") and key != "app.kubernetes.io/managed-by"
        }
        self._service_ports = service["spec"]["ports"]
        self._budget = {key: value for key, value in budget["spec"].items() if key != "selector"}

    def objects(self, namespace: str, name: str, run: str) -> list[Object]:
        """In the order a chart would create them."""
        metadata = {"name": name, "namespace": namespace, "labels": {BENCH_LABEL: run}}
        labels = {**self._pod_labels, "trimtab.dev/deployment": name, BENCH_LABEL: run}
        selector = {"trimtab.dev/deployment": name}
        template = {
            "metadata": {"labels": labels, "annotations": self._pod_annotations},
            "spec": self._pod_spec,
        }
        ports = [
            {key: port[key] for key in ("name", "port", "targetPort") if key in port} for port in self._service_ports
        ]
        return [
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": metadata,
                "spec": {"replicas": 1, "selector": {"matchLabels": selector}, "template": template},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": {"selector": selector, "ports": ports},
            },
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": metadata,
                "spec": {**self._budget, "selector": {"matchLabels": selector}},
            },
        ]
