"""The strategic merge of `spec.podTemplate` into a rendered pod. What may stand in it is judged by `overlay_check`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from operators.serving.overlay_lists import MERGE_KEYS

_APPENDED = frozenset({"tolerations"})  # a replaced list would drop the pool's own tolerations
_ONE_OF = frozenset({"env", "volumes"})  # items with one source: a new kind of source replaces the old kind


def merge_pod(pod: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """The pod with the template merged in. Expects a template that passed `check_template`; neither is changed."""
    return _merge_object(pod, template)


def _merge_object(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in patch.items():
        old = out.get(key)
        if value is None:
            out.pop(key, None)
        elif isinstance(value, Mapping):
            out[key] = _merge_object(old if isinstance(old, Mapping) else {}, value)
        elif isinstance(value, list):
            out[key] = _merge_list(key, old if isinstance(old, list) else [], value)
        else:
            out[key] = value
    return out


def _merge_list(key: str, base: list[Any], patch: list[Any]) -> list[Any]:
    if key in _APPENDED:
        return [*base, *(copy.deepcopy(item) for item in patch if item not in base)]
    merge_key = MERGE_KEYS.get(key)
    if merge_key is None:
        return copy.deepcopy(patch)
    out = list(base)
    position: dict[Any, int] = {item[merge_key]: index for index, item in enumerate(base)}
    for item in patch:
        at = position.get(item[merge_key])
        if at is None:
            position[item[merge_key]] = len(out)
            out.append(_merge_object({}, item))
        elif key in _ONE_OF:
            out[at] = _merge_object({name: value for name, value in out[at].items() if name in item}, item)
        else:
            out[at] = _merge_object(out[at], item)
    return out
