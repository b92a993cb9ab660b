"""The part of server-side apply that controllers depend on: ownership, conflicts, removal, keyed lists.

Ownership is kept per manager as a set of paths under a private annotation-free key of the fake's own
(`metadata.managedFields[].fakePaths`), not in the real `fieldsV1` encoding: nobody but the fake reads it.
"""

from __future__ import annotations

import copy
from typing import Any

Path = tuple[str, ...]

# What the API types declare as listType=map, by field name; every other list is replaced as a whole.
_LIST_KEYS: dict[str, tuple[str, ...]] = {
    "conditions": ("type",),
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "ports": ("containerPort", "protocol", "port"),
    "ownerReferences": ("uid",),
    "schedulingGates": ("name",),
}
_SETS = frozenset({"finalizers"})


def apply_fields(
    live: dict[str, Any], wanted: dict[str, Any], manager: str, *, force: bool
) -> tuple[dict[str, Any], list[str]]:
    """(`live` with the fields of `wanted`, conflicts). Fields `manager` applied before and left out now are removed."""
    result = copy.deepcopy(live)
    body = {key: value for key, value in wanted.items() if key not in ("apiVersion", "kind")}
    body["metadata"] = {
        key: value
        for key, value in body.get("metadata", {}).items()
        if key not in ("name", "namespace", "uid", "resourceVersion", "generation", "managedFields")
    }
    owned = _managers(result)
    mine = set(_leaves(body))
    conflicts = []
    for other, paths in owned.items():
        if other == manager:
            continue
        for path in sorted(mine & paths):
            if _read(result, path) != _read(body, path):
                conflicts.append(f'conflict with "{other}": .{".".join(path)}')
                if force:
                    paths.discard(path)
    if conflicts and not force:
        return live, conflicts
    kept_by_others = set().union(*(paths for other, paths in owned.items() if other != manager), set())
    kept = mine | kept_by_others
    for path in sorted(owned.get(manager, set()) - kept):
        _remove(result, _whole_item(path, kept))
    _merge(result, body)
    for key in ("apiVersion", "kind"):
        if key in wanted:
            result[key] = wanted[key]
    result.setdefault("metadata", {}).update(
        {key: wanted["metadata"][key] for key in ("name", "namespace") if key in wanted.get("metadata", {})}
    )
    owned[manager] = mine
    result["metadata"]["managedFields"] = [
        {"manager": name, "operation": "Apply", "fakePaths": sorted(map(list, paths))}
        for name, paths in sorted(owned.items())
        if paths
    ]
    return result, []


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def _managers(obj: dict[str, Any]) -> dict[str, set[Path]]:
    entries = obj.get("metadata", {}).get("managedFields", [])
    return {entry["manager"]: {tuple(path) for path in entry.get("fakePaths", [])} for entry in entries}


def _item_key(field: str, item: Any) -> str | None:
    keys = _LIST_KEYS.get(field)
    if field in _SETS and isinstance(item, str):
        return f"[{item}]"
    if keys is None or not isinstance(item, dict):
        return None
    parts = [f"{key}={item[key]}" for key in keys if key in item]
    return f"[{','.join(parts)}]" if parts else None


def _keyed(field: str, value: Any) -> dict[str, Any] | None:
    """A list as a map from item key to item, when the field is such a list."""
    if not isinstance(value, list) or (field not in _LIST_KEYS and field not in _SETS):
        return None
    keyed = {_item_key(field, item): item for item in value}
    return None if None in keyed else {str(key): item for key, item in keyed.items()}


def _leaves(value: Any, at: Path = ()) -> list[Path]:
    field = at[-1] if at else ""
    inner = value if isinstance(value, dict) else _keyed(field, value)
    if inner is None:
        return [at]
    found = [path for key, item in inner.items() for path in _leaves(item, (*at, key))]
    if not isinstance(value, dict):
        return found
    return found or ([at] if at and at != ("metadata",) else [])


def _read(value: Any, path: Path) -> Any:
    for depth, part in enumerate(path):
        inner = value if isinstance(value, dict) else _keyed(path[depth - 1], value)
        value = (inner or {}).get(part)
    return value


def _whole_item(path: Path, kept: set[Path]) -> Path:
    """The list item `path` lies in, when nobody keeps any field of that item; else `path` itself."""
    for depth, part in enumerate(path):
        prefix = path[: depth + 1]
        if part.startswith("[") and not any(other[: depth + 1] == prefix for other in kept):
            return prefix
    return path


def _remove(value: Any, path: Path) -> None:
    value = _read(value, path[:-1])
    if isinstance(value, dict):
        value.pop(path[-1], None)
    elif isinstance(value, list):
        value[:] = [item for item in value if _item_key(path[-2], item) != path[-1]]


def _merge(target: dict[str, Any], body: dict[str, Any]) -> None:
    for field, value in body.items():
        here = target.get(field)
        wanted, present = _keyed(field, value), _keyed(field, here if here is not None else [])
        if isinstance(value, dict):
            if not isinstance(here, dict):
                target[field] = {}
            _merge(target[field], value)
        elif wanted is not None and present is not None:
            for key, item in wanted.items():
                if isinstance(item, dict) and isinstance(present.get(key), dict):
                    _merge(present[key], item)
                else:
                    present[key] = copy.deepcopy(item)
            target[field] = list(present.values())
        else:
            target[field] = copy.deepcopy(value)
