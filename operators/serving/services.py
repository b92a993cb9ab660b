"""Objects of a deployment that outlive its pods: Service, headless Service of gangs, PodDisruptionBudget. Pure."""

from __future__ import annotations

from typing import Any

from controlplane.model import labels
from controlplane.model.resource import API_VERSION
from controlplane.model.routers import SPLITS
from controlplane.model.serving import ServingDeployment
from operators.serving.names import gang_service_name
from operators.serving.probes import PORT_NAME

SERVICE_PORT = 8000


def owner_reference(deployment: ServingDeployment) -> dict[str, Any]:
    """Controller reference: deletion of the deployment deletes what carries it."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ServingDeployment",
        "name": deployment.metadata.name,
        "uid": deployment.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def service(deployment: ServingDeployment, *, past_router: bool = False, revision: str | None = None) -> dict[str, Any]:
    """Where clients reach the deployment: its router where it has one of its own (unless `past_router`), else the
    leaders that are ready, whatever engine and port each has; with `revision` those of it alone."""
    # SPLITS: the routers that have pods of their own
    behind_router = deployment.spec.routing.router in SPLITS and not past_router
    selected = {labels.ROUTER: deployment.metadata.name} if behind_router else _leaders(deployment)
    if revision is not None and not behind_router:
        selected[labels.REVISION] = revision
    return owned_object(
        deployment,
        "v1",
        "Service",
        deployment.metadata.name,
        {
            "type": "ClusterIP",
            "selector": selected,
            "ports": [{"name": PORT_NAME, "port": SERVICE_PORT, "targetPort": PORT_NAME, "protocol": "TCP"}],
        },
    )


def headless_service(deployment: ServingDeployment) -> dict[str, Any]:
    """Host names for the pods of gangs. They must resolve before any is ready: ranks find each other while loading."""
    return owned_object(
        deployment,
        "v1",
        "Service",
        gang_service_name(deployment.metadata.name),
        {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {labels.DEPLOYMENT: deployment.metadata.name},
        },
    )


def pod_disruption_budget(deployment: ServingDeployment, gang_pods: int | None = None) -> dict[str, Any]:
    """One eviction at a time.

    Replicas of one pod: at most one leader away, counted against the scale subresource, so the object never changes.
    `gang_pods`: all pods that the placed gangs have; one away at most, because any pod takes its whole replica with it.
    The same holds for separate roles, whose replicas the scale subresource does not count one by one.
    Pods that are not ready may always be evicted: they serve nobody, and a broken engine must not block a drain.
    """
    spec: dict[str, Any] = {"unhealthyPodEvictionPolicy": "AlwaysAllow"}
    if gang_pods is None:
        spec |= {"maxUnavailable": 1, "selector": {"matchLabels": _leaders(deployment)}}
    else:
        spec |= {
            "minAvailable": max(0, gang_pods - 1),
            "selector": {"matchLabels": {labels.DEPLOYMENT: deployment.metadata.name}},
        }
    return owned_object(deployment, "policy/v1", "PodDisruptionBudget", deployment.metadata.name, spec)


def _leaders(deployment: ServingDeployment) -> dict[str, str]:
    return {labels.DEPLOYMENT: deployment.metadata.name, labels.LEADER: "true"}


def owned_object(
    deployment: ServingDeployment, version: str, kind: str, name: str, spec: dict[str, Any]
) -> dict[str, Any]:
    """A manifest that carries our labels and goes with its deployment."""
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": deployment.metadata.namespace,
            "labels": {
                labels.DEPLOYMENT: deployment.metadata.name,
                labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
            },
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": spec,
    }
