"""Pods as an API server sends them: about 6.8 KB of JSON, most of it nothing a controller reads.

The shape follows what a kubelet-run vLLM pod of a ServingDeployment looks like through `kubectl get -o json`:
managedFields of three managers, probes, volumes, a projected token, full conditions and container status.
"""

from __future__ import annotations

import json
from typing import Any

_PODS_PER_OWNER = 4
_NODES = 250


def pod(number: int, *, phase: str = "Running", version: int = 1) -> dict[str, Any]:
    """The pod with this number; the same every time. `version` is its resourceVersion and changes one condition."""
    owner = number // _PODS_PER_OWNER
    namespace = f"team-{owner % 20:02d}"
    name = f"llama-70b-chat-{owner:05d}-r7c9f4b-{number % _PODS_PER_OWNER}"
    labels = {
        "app.kubernetes.io/name": "trimtab",
        "app.kubernetes.io/component": "engine",
        "app.kubernetes.io/instance": f"llama-70b-chat-{owner:05d}",
        "app.kubernetes.io/managed-by": "trimtab",
        "trimtab.dev/revision": "7c9f4b5d6",
        "trimtab.dev/gang": f"{number % _PODS_PER_OWNER}",
    }
    when = "2026-10-01T12:00:00Z"
    resources = {"nvidia.com/gpu": "8", "cpu": "48", "memory": "512Gi", "ephemeral-storage": "200Gi"}
    mounts = [
        {"name": "model", "mountPath": "/models", "readOnly": True},
        {"name": "dshm", "mountPath": "/dev/shm"},
        {
            "name": "kube-api-access",
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            "readOnly": True,
        },
    ]
    probe = {"timeoutSeconds": 5, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"1f0c2a44-7b1e-4d0a-9c55-{number:012d}",
            "resourceVersion": str(100_000 + number + version * 1_000_000),
            "generation": 1,
            "creationTimestamp": when,
            "labels": labels,
            "annotations": {
                "trimtab.dev/placement": f"pool=h100-a;rack=r{number % 16};rail=8",
                "prometheus.io/scrape": "true",
                "prometheus.io/port": "8000",
            },
            "ownerReferences": [
                {
                    "apiVersion": "trimtab.dev/v1alpha1",
                    "kind": "ServingDeployment",
                    "name": f"llama-70b-chat-{owner:05d}",
                    "uid": f"9d1b7e00-0000-4000-8000-{owner:012d}",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [_managed(manager, when) for manager in ("trimtab-serving", "kubelet")],
        },
        "spec": {
            "volumes": [
                {"name": "model", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
                {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "32Gi"}},
                {
                    "name": "kube-api-access",
                    "projected": {
                        "sources": [
                            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                        ],
                        "defaultMode": 420,
                    },
                },
            ],
            "containers": [
                {
                    "name": "engine",
                    "image": "vllm/vllm-openai:v0.12.0",
                    "args": [
                        "--model=/models/llama-3.3-70b-instruct",
                        "--tensor-parallel-size=8",
                        "--max-num-seqs=256",
                        "--gpu-memory-utilization=0.92",
                        "--enable-chunked-prefill",
                        "--max-num-batched-tokens=8192",
                    ],
                    "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP"}],
                    "env": [
                        {"name": "NCCL_IB_HCA", "value": "mlx5_0,mlx5_1,mlx5_2,mlx5_3"},
                        {"name": "NCCL_SOCKET_IFNAME", "value": "eth0"},
                        {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                        {
                            "name": "HF_TOKEN",
                            "valueFrom": {"secretKeyRef": {"name": "hugging-face", "key": "token", "optional": True}},
                        },
                        {
                            "name": "VLLM_API_KEY",
                            "valueFrom": {"secretKeyRef": {"name": f"llama-70b-chat-{owner:05d}-key", "key": "key"}},
                        },
                        {
                            "name": "POD_IP",
                            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}},
                        },
                    ],
                    "resources": {"limits": resources, "requests": resources},
                    "volumeMounts": mounts,
                    "startupProbe": {"httpGet": {"path": "/health", "port": "http", "scheme": "HTTP"}, **probe},
                    "readinessProbe": {"httpGet": {"path": "/health", "port": "http", "scheme": "HTTP"}, **probe},
                    "lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": "http", "scheme": "HTTP"}}},
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "imagePullPolicy": "IfNotPresent",
                    "securityContext": {"runAsNonRoot": True, "allowPrivilegeEscalation": False},
                }
            ],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 120,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "nodeName": f"gpu-h100-{number % _NODES:04d}",
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {
                                        "key": "kubernetes.io/hostname",
                                        "operator": "In",
                                        "values": [f"gpu-h100-{number % _NODES:04d}"],
                                    }
                                ]
                            }
                        ]
                    }
                }
            },
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {
                    "key": "node.kubernetes.io/not-ready",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 300,
                },
            ],
            "priority": 0,
            "enableServiceLinks": False,
        },
        "status": {
            "phase": phase,
            "conditions": [
                {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": when}
                for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "hostIP": f"10.0.{number % _NODES}.7",
            "podIP": f"10.244.{number % _NODES}.{number % 250}",
            "podIPs": [{"ip": f"10.244.{number % _NODES}.{number % 250}"}],
            "startTime": when,
            "containerStatuses": [
                {
                    "name": "engine",
                    "state": {"running": {"startedAt": when}},
                    "lastState": {},
                    "ready": version % 2 == 0,
                    "restartCount": version,
                    "image": "docker.io/vllm/vllm-openai:v0.12.0",
                    "imageID": "docker.io/vllm/vllm-openai@sha256:" + "9f" * 32,
                    "containerID": "containerd://" + f"{number:064x}",
                    "started": True,
                }
            ],
            "qosClass": "Guaranteed",
        },
    }


def pod_bytes(number: int, *, version: int = 1) -> bytes:
    return json.dumps(pod(number, version=version), separators=(",", ":")).encode()


def _managed(manager: str, when: str) -> dict[str, Any]:
    fields = {
        "f:metadata": {"f:labels": {".": {}, "f:app.kubernetes.io/name": {}, "f:trimtab.dev/revision": {}}},
        "f:spec": {
            "f:containers": {
                'k:{"name":"engine"}': {
                    ".": {},
                    "f:args": {},
                    "f:image": {},
                    "f:name": {},
                    "f:ports": {'k:{"containerPort":8000,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}},
                    "f:resources": {"f:limits": {"f:nvidia.com/gpu": {}}, "f:requests": {"f:nvidia.com/gpu": {}}},
                    "f:volumeMounts": {'k:{"mountPath":"/models"}': {".": {}, "f:mountPath": {}, "f:name": {}}},
                }
            },
            "f:terminationGracePeriodSeconds": {},
        },
        "f:status": {
            "f:conditions": {
                'k:{"type":"Ready"}': {".": {}, "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}},
                'k:{"type":"ContainersReady"}': {".": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}},
            },
            "f:containerStatuses": {},
            "f:hostIP": {},
            "f:phase": {},
            "f:podIP": {},
            "f:startTime": {},
        },
    }
    return {
        "manager": manager,
        "operation": "Apply" if manager.startswith("trimtab") else "Update",
        "apiVersion": "v1",
        "time": when,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
