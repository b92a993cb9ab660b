"""What stands between clients and replicas besides the Service: a router's own pods, or objects for a gateway. Pure.

Rendered, not run here: objects are of the API versions named at each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from controlplane.catalog.router_lines import ROUTER_PORT, router_args, router_program
from controlplane.model import labels
from controlplane.model.routers import InstalledRouter, RouterName
from controlplane.model.serving import ServingDeployment
from operators.serving.probes import PORT_NAME
from operators.serving.services import owned_object

DEPLOYMENTS = "deployments"
INFERENCE_POOLS = "inferencepools"
INFERENCE_OBJECTIVES = "inferenceobjectives"
HTTP_ROUTES = "httproutes"
ROUTED = (DEPLOYMENTS, INFERENCE_POOLS, INFERENCE_OBJECTIVES, HTTP_ROUTES)
"""Plurals of the objects made here."""
OWN_ROUTERS: tuple[RouterName, ...] = ("sglang-router", "vllm-router")
"""Routers whose pods we start."""

# Gateway API inference extension v1.0 and later: the pool is stable, objectives are still of the experimental group.
POOL_GROUP = "inference.networking.k8s.io"
OBJECTIVE_GROUP = "inference.networking.x-k8s.io"
ROUTE_GROUP = "gateway.networking.k8s.io"
PICKER_PORT = 9002  # what an endpoint picker listens on for the gateway (ext_proc), by the extension's documents

# A larger number is served first; requests below 0 are those the picker may turn away when all are busy.
_PRIORITIES = {"High": 1, "Normal": 0, "Low": -1}


def host_name(deployment: ServingDeployment, installed: InstalledRouter) -> str:
    """The name under which a gateway knows the deployment."""
    return f"{deployment.metadata.name}.{deployment.metadata.namespace}.{installed.domain}"


def routing_objects(
    deployment: ServingDeployment, routers: Mapping[RouterName, InstalledRouter], engine_port: int
) -> list[tuple[str, dict[str, Any]]]:
    """(plural, manifest) of every object beside Services and budget. Expects a deployment that passed `validate`."""
    name = deployment.spec.routing.router
    if name == "service":
        return []
    if name == "gateway-inference-extension":
        found = _extension(deployment, routers[name], engine_port)
    else:
        found = [(DEPLOYMENTS, _router(deployment, name, routers[name], engine_port))]
    return [(plural, _signed(manifest)) for plural, manifest in found]


def routing_names(deployment: str) -> tuple[str, str]:
    """The names that objects of a deployment's routing may have."""
    return deployment, f"{deployment}-router"


def _found_by_labels(deployment: ServingDeployment, engine_port: int) -> tuple[str, ...]:
    name, namespace = deployment.metadata.name, deployment.metadata.namespace or "default"
    leaders = (f"{labels.DEPLOYMENT}={name}", f"{labels.LEADER}=true")
    chosen: tuple[str, ...] = ("--selector", *leaders)
    if deployment.spec.roles is not None:
        chosen = (
            *("--prefill-selector", *leaders, f"{labels.ROLE}=Prefill"),
            *("--decode-selector", *leaders, f"{labels.ROLE}=Decode"),
        )
    where = ("--service-discovery-namespace", namespace, "--service-discovery-port", str(engine_port))
    return ("--service-discovery", *chosen, *where)


def _router(
    deployment: ServingDeployment, name: RouterName, installed: InstalledRouter, engine_port: int
) -> dict[str, Any]:
    """One router pod, kept by a Deployment: a second would have a picture of its own of which replica has cached what."""
    spec = deployment.spec
    mark = {labels.ROUTER: deployment.metadata.name, labels.MANAGED_BY: labels.MANAGED_BY_VALUE}
    workers = _found_by_labels(deployment, engine_port)
    args = router_args(name, spec.routing.picks_by, split=spec.roles is not None, workers=workers)
    container = {
        "name": "router",
        "image": installed.image,
        "command": list(router_program(name)),
        "args": args,
        "ports": [{"name": PORT_NAME, "containerPort": ROUTER_PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": PORT_NAME}, "periodSeconds": 5, "timeoutSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": PORT_NAME}, "periodSeconds": 10, "failureThreshold": 6},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "serviceAccountName": installed.service_account,  # it watches the pods of its namespace
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": spec.rollout.drain_seconds,
        "containers": [container],
    }
    return owned_object(
        deployment,
        "apps/v1",
        "Deployment",
        routing_names(deployment.metadata.name)[1],
        {
            "replicas": 0 if spec.suspend else 1,
            "selector": {"matchLabels": {labels.ROUTER: deployment.metadata.name}},
            "template": {"metadata": {"labels": mark}, "spec": pod},
        },
    )


def _extension(
    deployment: ServingDeployment, installed: InstalledRouter, engine_port: int
) -> list[tuple[str, dict[str, Any]]]:
    name, spec = deployment.metadata.name, deployment.spec
    namespace, _, gateway = (installed.gateway or "").rpartition("/")
    pool_reference = {"group": POOL_GROUP, "kind": "InferencePool", "name": name}
    pool = {
        "selector": {"matchLabels": {labels.DEPLOYMENT: name, labels.LEADER: "true"}},
        "targetPorts": [{"number": engine_port}],
        "endpointPickerRef": {
            "group": "",
            "kind": "Service",
            "name": spec.routing.endpoint_picker or f"{name}-epp",
            "port": {"number": PICKER_PORT},
            "failureMode": "FailOpen",  # a request to any replica is better than none
        },
    }
    route = {
        "parentRefs": [{"name": gateway, "namespace": namespace}],
        "hostnames": [host_name(deployment, installed)],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [pool_reference],
                "timeouts": {"request": "0s"},  # none: an answer may take minutes to write
            }
        ],
    }
    objective = {"priority": _PRIORITIES[spec.priority], "poolRef": pool_reference}
    return [
        (INFERENCE_POOLS, owned_object(deployment, f"{POOL_GROUP}/v1", "InferencePool", name, pool)),
        (
            INFERENCE_OBJECTIVES,
            owned_object(deployment, f"{OBJECTIVE_GROUP}/v1alpha2", "InferenceObjective", name, objective),
        ),
        (HTTP_ROUTES, owned_object(deployment, f"{ROUTE_GROUP}/v1", "HTTPRoute", name, route)),
    ]


def _signed(manifest: dict[str, Any]) -> dict[str, Any]:
    """With a hash of what is applied, by which the cached object is known to be this one: other people's controllers
    write into these objects, too, so their fields cannot be compared one by one."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["metadata"]["annotations"] = {labels.RENDERED: hashlib.sha256(text.encode()).hexdigest()[:16]}
    return manifest
