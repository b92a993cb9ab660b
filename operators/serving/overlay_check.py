"""`spec.podTemplate`: a strategic merge patch on the rendered pod, and what of the pod it must not touch.

Rules. What the controller owns is refused with the field that sets it instead. Security may be relaxed from the
restricted to the baseline Pod Security Standard (root user, writable root), plus IPC_LOCK, which RDMA needs to register
memory; never below: the operator creates the pod, so a template that asked for privileges would lend the operator's
rights to whoever may write the object. Only listed fields are taken, so a new pod field is never let in unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.catalog import nearest
from controlplane.model.errors import InvalidSpec, Refused, TrimtabError, UnknownName
from controlplane.model.resource import GROUP
from operators.serving.overlay_fields import (
    ENGINE_CONTAINER,
    ENGINE_FIELDS,
    OWN_VOLUMES,
    OWNED_ENGINE_FIELDS,
    OWNED_ENV,
    OWNED_METADATA,
    OWNED_MOUNTS,
    OWNED_POD_FIELDS,
    POD_FIELDS,
    SCRATCH,
    SHM,
)
from operators.serving.overlay_lists import check_lists, check_tolerations
from operators.serving.overlay_security import check_annotations, check_security

FIELD = "spec.podTemplate"
_DEPTH_MAX = 24
_ERRORS_MAX = 20  # a person reads the first few; an object of 1 MB could hold 200,000


def check_template(
    template: Mapping[str, Any], *, accelerator_resources: frozenset[str], key_variables: frozenset[str] = frozenset()
) -> list[TrimtabError]:
    """Everything in a podTemplate that would be refused, without rendering. Empty when it may be merged.

    `accelerator_resources` are the resources placement counts, `cpu` among them where a choice runs on CPUs;
    `key_variables` the variables engines read an API key from.
    """
    errors: list[TrimtabError] = []
    _refuse_unmergeable(template, FIELD, errors)
    if not errors:
        check_lists(template, FIELD, errors)
    if errors:
        return errors
    _check_fields(template, FIELD, {"metadata", "spec"}, {}, errors)
    metadata = _object(template, "metadata", FIELD, errors)
    _check_fields(
        metadata,
        f"{FIELD}.metadata",
        {"labels", "annotations"},
        dict.fromkeys(OWNED_METADATA, "the controller names and owns its pods"),
        errors,
    )
    for kind in ("labels", "annotations"):
        for key in _object(metadata, kind, f"{FIELD}.metadata", errors):
            if key.split("/")[0] == GROUP or key.endswith(f".{GROUP}") or key == "app.kubernetes.io/managed-by":
                errors.append(
                    Refused(
                        f"{key} belongs to the controller",
                        field=f"{FIELD}.metadata.{kind}.{key}",
                        hint="use a key of your own",
                    )
                )
    spec = _object(template, "spec", FIELD, errors)
    path = f"{FIELD}.spec"
    _check_fields(spec, path, POD_FIELDS, OWNED_POD_FIELDS, errors)
    for index, container in _items(spec, "containers", path, errors):
        where = f"{path}.containers[{index}]"
        if container.get("name") == ENGINE_CONTAINER:
            _check_engine(container, where, accelerator_resources, OWNED_ENV | key_variables, errors)
            continue
        if "image" not in container:
            errors.append(
                InvalidSpec(
                    "a container of your own needs an image",
                    field=where,
                    value=container.get("name"),
                    hint=f"the engine's container is named {ENGINE_CONTAINER!r}",
                )
            )
        _check_own_resources(container, where, accelerator_resources, errors)
    for index, container in _items(spec, "initContainers", path, errors):
        where = f"{path}.initContainers[{index}]"
        if container.get("name") == ENGINE_CONTAINER:
            errors.append(InvalidSpec("the name is taken", field=f"{where}.name", value=ENGINE_CONTAINER))
        _check_own_resources(container, where, accelerator_resources, errors)
    check_tolerations(spec, path, errors)
    for index, volume in _items(spec, "volumes", path, errors):
        _check_own_volume(volume, f"{path}.volumes[{index}]", errors)
    if not errors:
        errors += check_annotations(metadata.get("annotations") or {}, f"{FIELD}.metadata.annotations")
        errors += check_security(spec, path)
    return errors


def _check_engine(
    container: Mapping[str, Any],
    path: str,
    accelerator_resources: frozenset[str],
    owned_variables: frozenset[str],
    errors: list[TrimtabError],
) -> None:
    _check_fields(container, path, ENGINE_FIELDS, OWNED_ENGINE_FIELDS, errors)
    hint = "use spec.explicit.choices[].acceleratorsPerPod or cpuMillicores"
    _check_resources(container, path, accelerator_resources, hint, errors)
    for index, variable in _items(container, "env", path, errors):
        if variable["name"] in owned_variables:
            name = variable["name"]
            errors.append(
                Refused(
                    f"{name} belongs to the controller",
                    field=f"{path}.env[{index}].name",
                    value=name,
                    hint="use spec.apiKeySecret" if name not in OWNED_ENV else "use spec.model",
                )
            )
    for index, mount in _items(container, "volumeMounts", path, errors, key="mountPath"):
        if mount.get("name") in OWN_VOLUMES or str(mount.get("mountPath", "")).rstrip("/") in OWNED_MOUNTS:
            errors.append(
                Refused(
                    "this mount belongs to the controller",
                    field=f"{path}.volumeMounts[{index}]",
                    value=mount.get("mountPath"),
                    hint="weights come from spec.model.source and spec.model.cache",
                )
            )


def _check_own_resources(
    container: Mapping[str, Any], path: str, accelerator_resources: frozenset[str], errors: list[TrimtabError]
) -> None:
    """Another container's CPU is counted with the engine's (`demand`); an accelerator would be the engine's own."""
    hint = "accelerators go to the engine alone; what needs one of its own is a workload of its own"
    _check_resources(container, path, accelerator_resources - {"cpu"}, hint, errors)


def _check_resources(
    container: Mapping[str, Any], path: str, counted: frozenset[str], hint: str, errors: list[TrimtabError]
) -> None:
    resources = _object(container, "resources", path, errors)
    for kind in ("requests", "limits"):
        for name, amount in _object(resources, kind, f"{path}.resources", errors).items():
            if name in counted:
                field = f"{path}.resources.{kind}.{name}"
                errors.append(Refused(f"{name} is counted by placement", field=field, value=amount, hint=hint))


def _check_own_volume(volume: Mapping[str, Any], path: str, errors: list[TrimtabError]) -> None:
    name = volume.get("name")
    if name in OWN_VOLUMES:
        errors.append(
            Refused(
                f"volume {name} belongs to the controller",
                field=path,
                value=name,
                hint="weights come from spec.model.source and spec.model.cache; choose another name",
            )
        )
    elif name in (SHM, SCRATCH) and set(volume) - {"name", "emptyDir"}:
        errors.append(
            Refused(f"volume {name} is an emptyDir; only its size and medium can change", field=path, value=name)
        )


def _check_fields(
    value: Mapping[str, Any],
    path: str,
    allowed: set[str] | frozenset[str],
    owned: Mapping[str, str],
    errors: list[TrimtabError],
) -> None:
    for key in value:
        if len(errors) >= _ERRORS_MAX:
            return
        if key in owned:
            errors.append(Refused(f"{key} belongs to the controller", field=f"{path}.{key}", hint=owned[key]))
        elif key not in allowed:
            close = nearest(key, allowed)
            errors.append(
                UnknownName(
                    f"unknown or unsupported field {key!r}",
                    field=f"{path}.{key}",
                    value=key,
                    limit=", ".join(sorted(allowed)),
                    hint=f"did you mean {close[0]}?" if close else None,
                )
            )


def _refuse_unmergeable(value: Any, path: str, errors: list[TrimtabError], depth: int = 0) -> None:
    """Merge directives, null outside securityContext (it would remove what the renderer put there), and nesting that
    no pod has."""
    if len(errors) >= _ERRORS_MAX:
        return
    if depth > _DEPTH_MAX:
        errors.append(InvalidSpec("nested too deeply", field=path, limit=f"{_DEPTH_MAX} levels"))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            where = f"{path}.{key}"
            if key.startswith("$"):
                errors.append(
                    InvalidSpec(
                        "merge directives are not supported",
                        field=where,
                        value=key,
                        hint="maps and keyed lists are merged; state what to add or change",
                    )
                )
            elif item is None and ".securityContext" not in path:
                errors.append(
                    InvalidSpec("null removes a field only inside securityContext", field=where, hint="leave it out")
                )
            else:
                _refuse_unmergeable(item, where, errors, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_unmergeable(item, f"{path}[{index}]", errors, depth + 1)


def _object(parent: Mapping[str, Any], key: str, path: str, errors: list[TrimtabError]) -> Mapping[str, Any]:
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        errors.append(InvalidSpec("must be an object", field=f"{path}.{key}", value=value))
        return {}
    return value


def _items(
    parent: Mapping[str, Any], list_key: str, path: str, errors: list[TrimtabError], *, key: str = "name"
) -> list[tuple[int, Mapping[str, Any]]]:
    """Items of a keyed list; an item without its key, or listed twice, is an error."""
    value = parent.get(list_key)
    if value is None:
        return []
    if not isinstance(value, list):
        errors.append(InvalidSpec("must be a list", field=f"{path}.{list_key}", value=value))
        return []
    found: list[tuple[int, Mapping[str, Any]]] = []
    seen: set[str] = set()
    for index, item in enumerate(value):
        if len(errors) >= _ERRORS_MAX:
            break
        where = f"{path}.{list_key}[{index}]"
        name = item.get(key) if isinstance(item, Mapping) else None
        if not isinstance(name, str) or not name:
            errors.append(InvalidSpec(f"each item needs a {key}", field=where, value=item))
        elif name in seen:
            errors.append(InvalidSpec("listed twice", field=f"{where}.{key}", value=name))
        else:
            seen.add(name)
            found.append((index, item))
    return found
