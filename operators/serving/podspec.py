"""The part of a pod that is the same for every slot, rank and node of a choice. Pure."""

from __future__ import annotations

import json
from typing import Any

from controlplane.catalog import Accelerator, ModelShape
from controlplane.catalog.engines import REVISION_FLAGS
from controlplane.model import labels
from controlplane.model.serving import ServingDeployment
from operators.serving import mpi
from operators.serving.launch import CONFIG_FILE, CONFIG_FOLDER, POD_IP, EngineLaunch
from operators.serving.memory import host_memory_bytes
from operators.serving.names import mpi_secret_name
from operators.serving.overlay_fields import ENGINE_CONTAINER, SCRATCH, SHM
from operators.serving.probes import PORT_NAME
from operators.serving.roles import role_env, role_ports
from operators.serving.source import MODEL_MOUNT

CACHE_FOLDER = "/cache"
SCRATCH_FOLDER = "/tmp"  # noqa: S108 - a volume of the pod's own

# First user id of Debian and Ubuntu images; the images of TensorRT-LLM (Ubuntu 24.04) have it as a named user.
_USER_ID = 1000
# Engines known to write only below /tmp and their cache. The others compile kernels into folders of the image.
_READ_ONLY_ROOT = frozenset({"openvino"})
_SHM_BYTES_PER_GPU = 2 * 2**30


def skeleton(
    deployment: ServingDeployment, launch: EngineLaunch, accelerator: Accelerator, model: ModelShape | None, image: str
) -> dict[str, Any]:
    """Pod without name, node, command line, probes and tolerations; the podTemplate is merged into this. `model` None:
    no catalogue knows it, so a CPU engine asks for no memory."""
    volumes, mounts = _volumes(deployment, launch, accelerator)
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER_ID,
            "runAsGroup": _USER_ID,
            "fsGroup": _USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",  # walking a volume of weights takes minutes
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": ENGINE_CONTAINER,
                "image": image,
                "ports": [
                    {"name": PORT_NAME, "containerPort": launch.engine.port, "protocol": "TCP"},
                    *role_ports(launch.engine, launch.role),
                ],
                "env": _environment(deployment, launch),
                "resources": _resources(launch, accelerator, model),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": launch.engine.id in _READ_ONLY_ROOT,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
    if deployment.spec.priority_class_name is not None:
        spec["priorityClassName"] = deployment.spec.priority_class_name
    annotations = {labels.ENGINE_CONFIG: json.dumps(launch.config, sort_keys=True)} if launch.config else {}
    return {"metadata": {"labels": {}, "annotations": annotations}, "spec": spec}


def uses_cache(deployment: ServingDeployment, launch: EngineLaunch) -> bool:
    """Whether the pod has a cache volume: for downloads, or because the user named a claim."""
    return launch.source.scheme == "hf" or deployment.spec.model.cache.claim is not None


def _volumes(
    deployment: ServingDeployment, launch: EngineLaunch, accelerator: Accelerator
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes: list[dict[str, Any]] = [{"name": SCRATCH, "emptyDir": {}}]
    mounts: list[dict[str, Any]] = [{"name": SCRATCH, "mountPath": SCRATCH_FOLDER}]

    def add(name: str, source: dict[str, Any], path: str, *, read_only: bool = False) -> None:
        volumes.append({"name": name, **source})
        mounts.append({"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})})

    if launch.source.claim is not None:
        claim = {"persistentVolumeClaim": {"claimName": launch.source.claim, "readOnly": True}}
        add("model", claim, MODEL_MOUNT, read_only=True)
    if uses_cache(deployment, launch):
        cache = deployment.spec.model.cache
        if cache.claim is not None:
            add("cache", {"persistentVolumeClaim": {"claimName": cache.claim}}, CACHE_FOLDER)
        else:
            add("cache", {"emptyDir": {"sizeLimit": cache.size_limit}}, CACHE_FOLDER)
    if accelerator.kind == "gpu" and launch.shape.ranks > 1:
        # Ranks of one pod exchange data through shared memory; the container runtime's default is 64 MiB.
        size = f"{launch.shape.ranks_per_pod * _SHM_BYTES_PER_GPU // 2**30}Gi"
        add(SHM, {"emptyDir": {"medium": "Memory", "sizeLimit": size}}, "/dev/shm")  # noqa: S108
    if launch.config:
        item = {"path": CONFIG_FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{labels.ENGINE_CONFIG}']"}}
        add("engine-config", {"downwardAPI": {"items": [item]}}, CONFIG_FOLDER, read_only=True)
    if launch.shape.pods > 1 and _by_mpi(launch):
        secret = {"secret": {"secretName": mpi_secret_name(deployment.metadata.name), "defaultMode": 0o440}}
        add("mpi-ssh", secret, mpi.KEY_FOLDER, read_only=True)
    return volumes, mounts


def _by_mpi(launch: EngineLaunch) -> bool:
    return launch.engine.multi_node is not None and launch.engine.multi_node.style == "mpi"


def _environment(deployment: ServingDeployment, launch: EngineLaunch) -> list[dict[str, Any]]:
    # Most images know no user of this uid: without these two, compile caches find neither home nor user name.
    env: list[dict[str, Any]] = [{"name": "HOME", "value": SCRATCH_FOLDER}, {"name": "USER", "value": "engine"}]
    if uses_cache(deployment, launch):
        env.append({"name": "HF_HOME", "value": f"{CACHE_FOLDER}/huggingface"})
    if launch.source.scheme != "hf" and launch.engine.id in REVISION_FLAGS:
        env.append({"name": "HF_HUB_OFFLINE", "value": "1"})
    if launch.shape.pods > 1 and not _by_mpi(launch):
        env.append({"name": POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    if launch.engine.id == "vllm":
        env.append({"name": "VLLM_NO_USAGE_STATS", "value": "1"})
        if launch.shape.pods > 1:
            env.append({"name": "VLLM_HOST_IP", "value": f"$({POD_IP})"})
    env += role_env(launch.engine, launch.role)
    key = deployment.spec.api_key_secret
    if key is not None and launch.engine.launch.api_key_env is not None:
        reference = {"secretKeyRef": {"name": key.name, "key": key.key}}
        env.append({"name": launch.engine.launch.api_key_env, "valueFrom": reference})
    return env


def _resources(launch: EngineLaunch, accelerator: Accelerator, model: ModelShape | None) -> dict[str, Any]:
    units = launch.shape.units_per_pod
    if accelerator.kind == "gpu":
        count = {accelerator.resource_name: str(units)}
        return {"requests": dict(count), "limits": count}
    requests = {accelerator.resource_name: f"{units}m"}
    memory_bytes = None if model is None else host_memory_bytes(launch.choice, model)
    if memory_bytes is not None:
        requests["memory"] = str(memory_bytes)
    return {"requests": requests}
