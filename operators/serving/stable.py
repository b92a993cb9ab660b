"""What a deployment's pods are rendered from, kept in its status so that a rollback can go back to it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from controlplane.model.canary import STABLE_SPEC_MAX, StableRevision
from controlplane.model.choice import AcceleratorChoice
from controlplane.model.errors import InvalidSpec
from controlplane.model.serving import Explicit, Model, SecretKey, ServingDeploymentSpec


def recorded(spec: ServingDeploymentSpec, revisions: Iterable[str]) -> StableRevision | None:
    """Of a spec whose choices are written or planned, rendered as `revisions`. None: separate roles, or a template too
    large for a status."""
    if spec.roles is not None or spec.explicit is None:
        return None
    fields: dict[str, Any] = {
        "model": _dumped(spec.model),
        "choices": [_dumped(choice) for choice in spec.explicit.choices],
    }
    if spec.api_key_secret is not None:
        fields["apiKeySecret"] = _dumped(spec.api_key_secret)
    if spec.priority_class_name is not None:
        fields["priorityClassName"] = spec.priority_class_name
    if spec.pod_template:
        fields["podTemplate"] = spec.pod_template
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    if len(text) > STABLE_SPEC_MAX:
        return None
    planned = None if spec.auto is None else spec.replicas
    return StableRevision(spec=text, replicas=planned, revisions=sorted(set(revisions)))


def with_stable(spec: ServingDeploymentSpec, stable: StableRevision) -> ServingDeploymentSpec:
    """The spec with the stable revision's pods: how many and how they are placed, rolled and drained is as it is now.
    Raises InvalidSpec for a record that cannot be read."""
    try:
        fields = json.loads(stable.spec)
        secret = fields.get("apiKeySecret")
        update = {
            "model": Model.model_validate(fields["model"]),
            "explicit": Explicit(choices=[AcceleratorChoice.model_validate(one) for one in fields["choices"]]),
            "api_key_secret": None if secret is None else SecretKey.model_validate(secret),
            "priority_class_name": fields.get("priorityClassName"),
            "pod_template": fields.get("podTemplate", {}),
        }
    except (ValueError, ValidationError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSpec(
            f"cannot be read: {error}",
            field="status.stable.spec",
            hint="remove spec.rollout.canary to roll out the spec as it is",
        ) from error
    if spec.replicas and stable.replicas is not None and spec.auto is not None:
        update["replicas"] = max(spec.replicas, stable.replicas)
    return spec.model_copy(update=update)


def _dumped(part: Model | SecretKey | AcceleratorChoice) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_defaults=True)
