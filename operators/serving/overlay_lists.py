"""Lists of a podTemplate: which are merged by key, and whether their items can be. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from controlplane.model.cluster import PoolToleration
from controlplane.model.errors import InvalidSpec, TrimtabError

# Merge keys of the pod's lists (patchMergeKey in the core/v1 API types). Lists not named here are replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "resourceClaims": "name",
    "claims": "name",
}
_ERRORS_MAX = 20
_TOLERATION_FIELDS = ("key", "operator", "value", "effect")


def check_lists(value: Any, path: str, errors: list[TrimtabError]) -> None:
    """Every list that is merged by key must hold objects that have it, at any depth."""
    if len(errors) >= _ERRORS_MAX:
        return
    if isinstance(value, Mapping):
        for name, item in value.items():
            key = MERGE_KEYS.get(name)
            if key is not None and isinstance(item, list):
                _check_keys(item, key, f"{path}.{name}", errors)
            check_lists(item, f"{path}.{name}", errors)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_lists(item, f"{path}[{index}]", errors)


def _check_keys(items: list[Any], key: str, path: str, errors: list[TrimtabError]) -> None:
    for index, item in enumerate(items):
        if len(errors) >= _ERRORS_MAX:
            return
        if not isinstance(item, Mapping) or not isinstance(item.get(key), str | int):
            errors.append(InvalidSpec(f"each item needs a {key}", field=f"{path}[{index}]", value=item))


def check_tolerations(spec: Mapping[str, Any], path: str, errors: list[TrimtabError]) -> None:
    """Placement reads tolerations, so they must be what Kubernetes allows."""
    given = spec.get("tolerations")
    if given is None:
        return
    if not isinstance(given, list):
        errors.append(InvalidSpec("must be a list", field=f"{path}.tolerations", value=given))
        return
    for index, item in enumerate(given):
        if len(errors) >= _ERRORS_MAX:
            return
        where = f"{path}.tolerations[{index}]"
        if not isinstance(item, Mapping):
            errors.append(InvalidSpec("must be an object", field=where, value=item))
            continue
        wrong = next((name for name in _TOLERATION_FIELDS if not isinstance(item.get(name, ""), str)), None)
        if wrong is not None:
            errors.append(InvalidSpec("must be text", field=f"{where}.{wrong}", value=item[wrong]))
        elif item.get("operator", "Equal") not in ("Equal", "Exists"):
            errors.append(
                InvalidSpec(
                    "unknown operator", field=f"{where}.operator", value=item["operator"], limit="Equal, Exists"
                )
            )
        elif item.get("key"):
            _check_taint(item, where, errors)
        elif item.get("operator") != "Exists":
            errors.append(InvalidSpec("without a key the operator must be Exists", field=where))


def _check_taint(item: Mapping[str, Any], path: str, errors: list[TrimtabError]) -> None:
    try:
        PoolToleration(key=item["key"], value=item.get("value"), effect=item.get("effect") or None)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join([path, *(str(part) for part in first["loc"])])
        errors.append(InvalidSpec(first["msg"], field=field, value=item.get(str(first["loc"][0]))))
