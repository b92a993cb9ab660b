"""The name of what a replica's pods are rendered from: another one means other pods. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from controlplane.model.choice import AcceleratorChoice
from controlplane.model.serving import ServingDeployment
from operators.serving.launch import EngineLaunch
from operators.serving.names import REVISION_DIGITS

# Part of every revision. Raise it only when running pods must be replaced because of how they are rendered: each
# raise restarts every engine of every installation that upgrades.
_RENDERING = 1


def asked_of(deployment: ServingDeployment, choice: AcceleratorChoice, launch: EngineLaunch) -> str:
    """Hash of what the spec asks of these pods, whatever this operator or its installation makes of it: the same change
    has the same name after an upgrade that renders it in another way."""
    return _digest({**_asked(deployment, choice, launch), "image": choice.image})


def revision_of(deployment: ServingDeployment, choice: AcceleratorChoice, launch: EngineLaunch, image: str) -> str:
    """Hash of what the pods are rendered from and a restart is needed for.

    Left out: placement (pools, nic, topology), the choice's position and neighbours, replicas, rollout with its drain
    time, priority, SLO, startup deadline, suspend. Fields at their default count as absent, so that a field added to
    the API later changes no hash.
    """
    return _digest({**_asked(deployment, choice, launch), "rendering": _RENDERING, "image": image})


def _asked(deployment: ServingDeployment, choice: AcceleratorChoice, launch: EngineLaunch) -> dict[str, Any]:
    spec = deployment.spec
    placement = {"pools", "nic", "topology", "accelerators_per_pod", "image"}
    return {
        "model": spec.model.model_dump(mode="json", exclude_defaults=True),
        "choice": choice.model_dump(mode="json", exclude_defaults=True, exclude=placement),
        "pods": [launch.shape.pods, launch.shape.units_per_pod],
        "api_key": None if spec.api_key_secret is None else spec.api_key_secret.model_dump(mode="json"),
        "template": spec.pod_template,
        "priority_class": spec.priority_class_name,
        **({} if launch.role == "Aggregated" else {"role": launch.role}),
    }


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:REVISION_DIGITS]
