"""The pod of one attempt: what every trial pod is, whatever runs in it. Pure.

It keeps the restricted Pod Security Standard by itself: the namespace of a tuning job need not enforce it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.model.errors import Unsupported
from controlplane.model.tuning_job import TuningSpec
from operators.serving.launch import literal
from operators.serving.podspec import SCRATCH_FOLDER
from operators.serving.render import toleration
from operators.tuning.pod_names import Attempt, trial_labels, trial_pod_name
from operators.tuning.pod_nodes import Place, affinity

TRIAL_CONTAINER = "trial"

_USER_ID = 1000
# An attempt ends by its own time limits, one until it runs (its image is pulled) and one for what runs; a pod that outlives
# its worker ends this much later by itself.
_OUTLIVES_S = 60
# Nothing of an engine's end is measured: no drain.
_GRACE_S = 2
_CPU_MILLICORES = 1000
# Volume types of the restricted standard (Kubernetes documentation, "Pod Security Standards").
_VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rendered:
    """A manifest, the container that is measured, and how its engine is reached (port 0: it is none)."""

    manifest: dict[str, Any]
    container: str
    port: int = 0
    served_name: str = ""
    api_key: str = ""


def dressed(
    of: Attempt,
    namespace: str,
    spec: TuningSpec,
    place: Place,
    pod: dict[str, Any],
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The whole manifest around a pod's own part. Raises Unsupported for what a restricted pod cannot be."""  # fmt: skip
    tolerations = [*(toleration(item) for item in place.tolerations), *pod.get("tolerations", ())]
    whole = restricted(pod)
    whole |= {
        "serviceAccountName": spec.pods.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": 2 * int(spec.measuring.timeout_s) + _OUTLIVES_S,
        "terminationGracePeriodSeconds": _GRACE_S,
        "affinity": affinity(place, beside_live=spec.pods.beside_live),
    }
    if tolerations:
        whole["tolerations"] = [item for index, item in enumerate(tolerations) if item not in tolerations[:index]]
    metadata: dict[str, Any] = {"name": trial_pod_name(of), "namespace": namespace, "labels": trial_labels(of)}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole}


def command_pod(of: Attempt, namespace: str, spec: TuningSpec, place: Place, image: str, argv: list[str]) -> Rendered:
    """A user's command in the user's image. On nodes with devices it gets all of its node's: it has the node to itself."""
    accelerator = place.accelerator
    resources: dict[str, Any] = {"requests": {"cpu": f"{_CPU_MILLICORES}m"}}
    if accelerator is not None and accelerator.kind != "cpu":
        count = {accelerator.resource_name: str(place.devices or accelerator.accelerators_per_node or 1)}
        resources = {"requests": dict(count), "limits": count}
    container = {
        "name": TRIAL_CONTAINER,
        "image": image,
        "command": [literal(word) for word in argv],
        "env": [{"name": "HOME", "value": SCRATCH_FOLDER}],
        "resources": resources,
        "volumeMounts": [{"name": "scratch", "mountPath": SCRATCH_FOLDER}],
    }
    pod = {
        "securityContext": {"runAsUser": _USER_ID, "runAsGroup": _USER_ID, "fsGroup": _USER_ID},
        "containers": [container],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }
    return Rendered(dressed(of, namespace, spec, place, pod), TRIAL_CONTAINER)


def restricted(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The pod as the restricted Pod Security Standard has it. What a template loosened is tightened again; raises
    Unsupported where the pod would no longer be the same."""
    whole = dict(pod)
    context = dict(pod.get("securityContext") or {})
    _no_root(context, "securityContext")
    context |= {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    context.pop("appArmorProfile", None)
    whole["securityContext"] = context
    for kind in ("containers", "initContainers"):
        if pod.get(kind):
            whole[kind] = [_restricted_container(one) for one in pod[kind]]
    for volume in pod.get("volumes") or []:
        _check_volume(volume)
    return whole


def _restricted_container(container: Mapping[str, Any]) -> dict[str, Any]:
    context = dict(container.get("securityContext") or {})
    _no_root(context, f"containers[{container['name']}].securityContext")
    context = {
        name: value for name, value in context.items() if name not in ("privileged", "seccompProfile", "procMount")
    }
    context |= {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
    return {**container, "securityContext": context}


def _no_root(context: Mapping[str, Any], path: str) -> None:
    if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
        raise Unsupported(
            "trial pods keep the restricted Pod Security Standard, and this one runs as root", field=path,
            hint="let the deployment's podTemplate name a user above 0",
        )  # fmt: skip


def _check_volume(volume: Mapping[str, Any]) -> None:
    wrong = sorted(set(volume) - {"name"} - _VOLUMES)
    if wrong:
        raise Unsupported(
            f"trial pods have no volumes of type {wrong[0]}", field=f"volumes[{volume.get('name')}]",
            limit=", ".join(sorted(_VOLUMES)),
        )  # fmt: skip
    sources = (volume.get("projected") or {}).get("sources") or []
    if any("serviceAccountToken" in source for source in sources):
        raise Unsupported(
            "trial pods get no token of their account", field=f"volumes[{volume.get('name')}].projected",
            hint="let the deployment's engine do without one",
        )  # fmt: skip
