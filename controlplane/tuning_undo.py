"""A tuned setting taken out of a ServingDeployment again: what its annotation says stood there before. Pure."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from controlplane.model.errors import Refused
from controlplane.model.tuning_apply import TUNED_BEFORE, TUNED_BY, FieldChange
from controlplane.tuning_apply import CHOICES, Document, Patch, canary_in, check_merged, merged, patch_body
from controlplane.tuning_canary import undo_warnings
from controlplane.tuning_notes import CANARY, noted, same


def take_back(document: Document, *, job: str, force: bool = False) -> Patch:
    """What brings back the settings before those of `job`. `force`: although somebody changed them since. Raises
    Refused."""
    check_merged(document, {})
    changes = noted(document, job)
    raw = copy.deepcopy(dict(document["spec"]))
    undone: list[FieldChange] = []
    for change in changes:
        place, name = _place(raw, change.field)
        held = place.get(name)
        if not same(change.field, held, change.after) and not force:
            raise Refused(
                "was changed since the tuning job wrote it",
                field=change.field,
                value=held,
                limit=json.dumps(change.after),
                hint="change it by hand, or take back with force",
                code="SettingsChanged",
            )
        if change.before is None:
            place.pop(name, None)
        else:
            place[name] = change.before
        undone.append(FieldChange(field=change.field, before=held, after=change.before))
    body: dict[str, Any] = {}
    if any(change.field.startswith(CHOICES) for change in changes):
        body["explicit"] = {"choices": raw["explicit"]["choices"]}
    if any(change.field == CANARY for change in changes):
        body["rollout"] = {"canary": _exactly((raw.get("rollout") or {}).get("canary"), canary_in(document))}
    check_merged(document, body)
    warnings = undo_warnings(merged(document["spec"], body)) if "explicit" in body else ()
    return Patch(tuple(undone), warnings, patch_body(document, body, {TUNED_BY: None, TUNED_BEFORE: None}))


def _place(spec: dict[str, Any], field: str) -> tuple[dict[str, Any], str]:
    """Where a noted field stands, and its last name. Raises Refused for one that is not there any more."""
    if field == CANARY:
        return spec.setdefault("rollout", {}), "canary"
    index, _, rest = field.removeprefix(f"{CHOICES}[").partition("].")
    choices = (spec.get("explicit") or {}).get("choices") or []
    if not field.startswith(f"{CHOICES}[") or not (index.isascii() and index.isdigit()) or int(index) >= len(choices):
        raise Refused("is not there any more", field=field, hint="change it by hand", code="SettingsChanged")
    choice: dict[str, Any] = choices[int(index)]
    name = rest.removeprefix("knobs.")
    return (choice if name == rest else choice.setdefault("knobs", {})), name


def _exactly(wanted: Any, held: Any) -> Any:
    """A merge patch that leaves nothing but `wanted`."""
    if not isinstance(wanted, Mapping) or not isinstance(held, Mapping):
        return wanted
    gone: dict[str, Any] = {name: None for name in held if name not in wanted}
    return {**gone, **{name: _exactly(value, held.get(name)) for name, value in wanted.items()}}
