"""Puts a calibration where the operator and the API of a cluster look for it, and takes it away again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from controlplane.kube import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    Conflict,
    Forbidden,
    KubeClient,
    KubeError,
    NotFound,
    load_access,
)
from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.labels import MANAGED_BY, MANAGED_BY_VALUE
from tuner.serving.calibration.installed import FILE_NAME
from tuner.serving.calibration.parameters import Calibration, digest_of, dump_calibration

FIELD_MANAGER = "trimtab-calibrate"
# Kubernetes, pkg/apis/core/types.go: MaxSecretSize, which holds for all data of a ConfigMap, too.
MAX_DATA_BYTES = 2**20
_PROCESSES = "app.kubernetes.io/name=trimtab"
_AGENT = "trimtab-calibrate"


@dataclass(frozen=True, slots=True)
class Target:
    """A ConfigMap as the chart's `planner.calibration.configMap` names it. `kubeconfig` None: the usual places."""

    namespace: str
    config_map: str
    kubeconfig: str | None = None

    def __str__(self) -> str:
        return f"ConfigMap {self.namespace}/{self.config_map}"


async def install(calibration: Calibration, target: Target) -> list[str]:
    """Apply it; what somebody else wrote is not taken over. Answers with what may keep it from being used. Raises
    InvalidSpec for one that is too large, Refused with the cluster's words."""
    text = dump_calibration(calibration)
    if len(text.encode()) > MAX_DATA_BYTES:
        raise InvalidSpec(
            "too large for a ConfigMap",
            field=calibration.name,
            value=len(text.encode()),
            limit=f"{MAX_DATA_BYTES} bytes",
            hint="refit on the shipped calibration (without --base)",
        )
    body = {
        "apiVersion": CONFIG_MAPS.api_version,
        "kind": CONFIG_MAPS.kind,
        "metadata": {
            "name": target.config_map,
            "namespace": target.namespace,
            "labels": {MANAGED_BY: MANAGED_BY_VALUE, "app.kubernetes.io/part-of": "trimtab"},
            "annotations": {"trimtab.dev/calibration": calibration.name, "trimtab.dev/digest": digest_of(calibration)},
        },
        "data": {FILE_NAME: text},
    }
    try:
        access = await load_access(target.kubeconfig)
        async with KubeClient(access, user_agent=_AGENT) as client:
            await client.apply(
                CONFIG_MAPS, body, target.config_map, target.namespace, field_manager=FIELD_MANAGER, force=False
            )
            return await _unread(client, target)
    except KubeError as error:
        raise _refused("not installed", error, target) from error


async def uninstall(target: Target) -> bool:
    """Delete the ConfigMap. False: there was none. Raises Refused for one that `install` has not made, and with the
    cluster's words."""
    try:
        access = await load_access(target.kubeconfig)
        async with KubeClient(access, user_agent=_AGENT) as client:
            found = json.loads(await client.get(CONFIG_MAPS, target.config_map, target.namespace))["metadata"]
            if (found.get("labels") or {}).get(MANAGED_BY) != MANAGED_BY_VALUE:
                raise Refused("not removed: it is somebody else's", field=str(target), hint=_delete_by_hand(target))
            await client.delete(CONFIG_MAPS, target.config_map, target.namespace, uid=found["uid"])
    except NotFound:
        return False
    except KubeError as error:
        raise _refused("not removed", error, target) from error
    return True


async def _unread(client: KubeClient, target: Target) -> list[str]:
    """A warning where no Deployment of Trimtab in that namespace mounts it; nothing where we may not look."""
    try:
        page = await client.list_page(DEPLOYMENTS, target.namespace, label_selector=_PROCESSES)
    except KubeError:
        return []
    if any(_mounts(item, target.config_map) for item in json.loads(page).get("items") or []):
        return []
    return [
        f"nothing of Trimtab in namespace {target.namespace} reads it: name the namespace of the release (--namespace) and "
        "the ConfigMap of its planner.calibration.configMap (--config-map)"
    ]


def _mounts(deployment: dict[str, Any], config_map: str) -> bool:
    volumes = deployment["spec"]["template"]["spec"].get("volumes") or []
    return any((volume.get("configMap") or {}).get("name") == config_map for volume in volumes)


def _refused(what: str, error: KubeError, target: Target) -> Refused:
    hint = None
    if isinstance(error, Conflict):
        hint = f"somebody else wrote it: {_delete_by_hand(target)} first"
    elif isinstance(error, Forbidden):
        hint = f"it takes the right to get, patch, create and delete ConfigMaps in namespace {target.namespace}"
    elif isinstance(error, NotFound):
        hint = "--namespace names the namespace of the release"
    return Refused(f"{what}: {error}", field=str(target), hint=hint)


def _delete_by_hand(target: Target) -> str:
    return f"kubectl delete configmap -n {target.namespace} {target.config_map}"
