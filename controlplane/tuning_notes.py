"""What a tuning job noted in a deployment's annotation: the fields that it changed, as they stood before. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue, ValidationError

from controlplane.model.canary import Canary
from controlplane.model.errors import Refused
from controlplane.model.tuning_apply import TUNED_BEFORE, FieldChange

CANARY = "spec.rollout.canary"


def note(document: Mapping[str, Any], job: str, changes: Sequence[FieldChange]) -> str:
    """The annotation. Of a job that is applied once more: what stood there before the first time."""
    try:
        earlier = {one.field: one for one in noted(document, job)}
    except Refused:
        earlier = {}
    for one in changes:
        first = earlier.get(one.field)
        # Where somebody else has changed the field since, that is what a way back leads to.
        kept = first.before if first is not None and same(one.field, one.before, first.after) else one.before
        earlier[one.field] = one.model_copy(update={"before": kept})
    left = [one.model_dump(mode="json", by_alias=True) for one in earlier.values()]
    return json.dumps({"job": job, "changes": left}, separators=(",", ":"))


def noted(document: Mapping[str, Any], job: str) -> list[FieldChange]:
    """What the annotation says. Raises Refused without one, or one of another job."""
    text = (document["metadata"].get("annotations") or {}).get(TUNED_BEFORE)
    if text is None:
        raise Refused(
            "no tuning job wrote settings into this deployment",
            field=f"metadata.annotations[{TUNED_BEFORE}]",
            hint="there is nothing to take back",
            code="NothingToUndo",
        )
    try:
        kept = json.loads(text)
        by, changes = str(kept["job"]), [FieldChange.model_validate(one) for one in kept["changes"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refused(
            "the note of what stood there before cannot be read",
            field=f"metadata.annotations[{TUNED_BEFORE}]",
            hint="change the settings by hand and remove the annotation",
            code="NothingToUndo",
        ) from None
    if by != job:
        raise Refused(
            "the settings are those of another tuning job",
            field="job",
            value=job,
            limit=by,
            hint="take that one back",
            code="NothingToUndo",
        )
    return changes


def same(field: str, held: JsonValue, noted: JsonValue) -> bool:
    """The API server writes defaults into a canary."""
    if field == CANARY and isinstance(held, dict) and isinstance(noted, dict):
        try:
            return Canary.model_validate(held) == Canary.model_validate(noted)
        except ValidationError:
            return False
    return held == noted
