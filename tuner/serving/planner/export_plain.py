"""A planned deployment as Deployments and Services of any cluster, without Trimtab's operator in it. Pure.

What the operator would do is then the reader's: topology of the nodes, what to fall back to, drain, rolling without a loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.catalog import Accelerator, Catalog, Engine, ModelShape
from controlplane.catalog.connectors import CONNECTORS
from controlplane.catalog.router_lines import ROUTER_PORT, router_args, router_program
from controlplane.model.errors import Unsupported
from controlplane.model.plans import PlannedRole, PlanRequest, ServingCandidate
from controlplane.model.resource import GROUP
from tuner.serving.planner.export import MODEL_FOLDER, Source, engine_line, is_split, source_of
from tuner.serving.planner.export_nodes import placement

_APP, _ROLE = "app.kubernetes.io/name", "app.kubernetes.io/component"
_POOL = f"{GROUP}/pool"  # an annotation for people: the pool that the plan counted on
_PORT = "http"
_CACHE, _SHARED_MEMORY, _CONFIG = "/cache", "/dev/shm", "/etc/engine"  # noqa: S108 - paths in the pod
# As the operator renders it: PyTorch's workers share tensors there, and the container runtime gives 64 MiB.
_SHARED_BYTES_PER_ACCELERATOR = 2 * 2**30


def plain_manifests(
    candidate: ServingCandidate,
    request: PlanRequest,
    model: ModelShape,
    source: str | None,
    catalog: Catalog,
    name: str,
    images: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """One Deployment for each role and pool, the router where the plan has one, and the Service. Raises Unsupported for
    what a Deployment cannot be: replicas over several nodes, engines without a known image."""
    out: list[dict[str, Any]] = []
    split = is_split(candidate)
    ports = set()
    for number, role in enumerate(candidate.roles):
        engine = catalog.engine(role.choice.engine)
        accelerator = catalog.accelerator(role.choice.accelerator)
        ports.add(engine.port)
        pod_name = f"{name}-{role.role}-{number}" if split else f"{name}-{number}"
        config, pod = _pod(role, engine, accelerator, source_of(model, source), images or {}, pod_name)
        labels = {_APP: name, _ROLE: role.role}
        out += config
        out.append(_deployment(pod_name, role.replicas, labels, {**labels, "replicas-of": pod_name}, pod, role))
    routed = request.routing.router
    if routed == "service":
        out.append(_service(name, {_APP: name}))
        return out
    if routed == "gateway-inference-extension":
        raise Unsupported(
            "an endpoint picker comes with the extension's own chart: there is no plain manifest of it",
            field="export",
            value="kubernetes",
            hint="export the manifest for Trimtab, or plan with the router service or sglang-router",
        )
    if len(ports) > 1:
        raise Unsupported(f"{routed} looks for all replicas on one port", field="export", value=sorted(ports))
    image = (images or {}).get(routed)
    if image is None:
        raise Unsupported(f"no image of {routed} is known", field="image", hint=f"name one: --image {routed}=IMAGE")
    router = f"{name}-router"
    out += _rights(router)
    workers = ["--service-discovery", "--selector", f"{_APP}={name}"]
    if split:
        workers = ["--service-discovery"]
        for part in ("prefill", "decode"):
            workers += [f"--{part}-selector", f"{_APP}={name}", f"{_ROLE}={part}"]
    workers += ["--service-discovery-port", str(ports.pop())]
    args = router_args(routed, request.routing.picks_by, split=split, workers=tuple(workers))
    container = {
        "name": "router",
        "image": image,
        "command": list(router_program(routed)),
        "args": [*args, "--service-discovery-namespace", "$(NAMESPACE)"],
        "env": [{"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
        "ports": [{"name": _PORT, "containerPort": ROUTER_PORT}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": _PORT}},
    }
    mark = {_APP: router}
    out.append(_deployment(router, 1, mark, mark, {"serviceAccountName": router, "containers": [container]}, None))
    out.append(_service(name, mark))
    return out


def _pod(
    role: PlannedRole, engine: Engine, accelerator: Accelerator, source: Source, images: Mapping[str, str], name: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The ConfigMap that the engine reads, where it reads one, and the pod."""
    choice = role.choice
    ranks = choice.tensor_parallel * choice.pipeline_parallel * choice.data_parallel
    if accelerator.kind == "gpu" and ranks > (accelerator.accelerators_per_node or ranks):
        raise Unsupported(
            f"a replica of {ranks} {accelerator.id} spans nodes: a Deployment does not start its pods together",
            field="export",
            value="kubernetes",
            hint="export the manifest for Trimtab, or allow smaller shapes",
        )
    image = choice.image or images.get(f"{engine.id}/{accelerator.vendor}") or images.get(engine.id) or engine.image
    if image is None:
        raise Unsupported(
            f"no image of {engine.id} is known", field="image", hint=f"name one: --image {engine.id}=IMAGE"
        )
    file, environment, line = engine_line(role, engine, source)
    command, args = line[: len(engine.launch.command)], line[len(engine.launch.command) :]
    volumes: list[dict[str, Any]] = [{"name": "cache", "emptyDir": {}}]
    mounts: list[dict[str, Any]] = [{"name": "cache", "mountPath": _CACHE}]
    env: list[dict[str, Any]] = [{"name": "HF_HOME", "value": f"{_CACHE}/huggingface"}]
    for variable, _, value in (text.partition("=") for text in environment):
        if value.startswith("$("):
            env.append({"name": variable, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
        else:
            env.append({"name": variable, "value": value})
    if source.claim is not None:
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": source.claim, "readOnly": True}})
        mounts.append({"name": "model", "mountPath": MODEL_FOLDER, "readOnly": True})
    if accelerator.kind == "gpu" and ranks > 1:
        size = f"{ranks * _SHARED_BYTES_PER_ACCELERATOR // 2**30}Gi"
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
        mounts.append({"name": "shm", "mountPath": _SHARED_MEMORY})
    config: list[dict[str, Any]] = []
    if file:
        content = {args[-1]: "\n".join(file[1:-1]) + "\n"}  # between `cat <<EOF` and `EOF`
        config.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": content})
        volumes.append({"name": "config", "configMap": {"name": name}})
        mounts.append({"name": "config", "mountPath": _CONFIG, "readOnly": True})
        args = [*args[:-1], f"{_CONFIG}/{args[-1]}"]
    container = {
        "name": "engine",
        "image": image,
        "command": command,
        "args": args,
        "env": env,
        "ports": [{"name": _PORT, "containerPort": engine.port}],
        "resources": {"limits": _limits(role, accelerator, ranks)},
        "volumeMounts": mounts,
        "readinessProbe": {"httpGet": {"path": engine.health_path, "port": _PORT}, "periodSeconds": 5},
    }
    return config, {**placement(accelerator), "containers": [container], "volumes": volumes}


def _limits(role: PlannedRole, accelerator: Accelerator, ranks: int) -> dict[str, str]:
    if accelerator.kind == "gpu":
        return {accelerator.resource_name: str(ranks)}
    return {"cpu": f"{(role.choice.cpu_millicores or 1000) * ranks}m"}


def _deployment(
    name: str,
    replicas: int,
    labels: Mapping[str, str],
    selected: Mapping[str, str],
    pod: dict[str, Any],
    role: PlannedRole | None,
) -> dict[str, Any]:
    """`selected`: what its pods are told apart by."""
    annotations = {} if role is None else {_POOL: role.pool}
    connector = None if role is None or role.role != "prefill" else CONNECTORS.get(role.choice.engine)
    on_pods: dict[str, Any] = {"labels": dict(selected)}
    if connector is not None and connector.port_annotation is not None:
        on_pods["annotations"] = {connector.port_annotation: str(connector.port)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "labels": dict(labels),
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": dict(selected)},
            "template": {"metadata": on_pods, "spec": pod},
        },
    }


def _service(name: str, selector: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {_APP: name}},
        "spec": {"selector": dict(selector), "ports": [{"name": _PORT, "port": ROUTER_PORT, "targetPort": _PORT}]},
    }


def _rights(name: str) -> list[dict[str, Any]]:
    """A router watches the pods of its namespace."""
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name}],
        },
    ]
