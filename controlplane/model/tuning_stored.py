"""A tuning job's spec as another version of Trimtab wrote it, in this version's words.

It was checked when it was made. What has been forbidden since must not make a job unreadable, and with it every list that
it stands in: a number outside today's bounds becomes the nearest within, a field that is unknown here is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from controlplane.model.tuning_job import TuningSpec

_BOUNDS = {"greater_than_equal": "ge", "less_than_equal": "le"}
# A round names what is wrong with fields; relations between them are looked at when none is.
_ROUNDS = 3


def stored_spec(document: Any) -> TuningSpec:
    """Raises ValidationError for what no version of ours wrote."""
    for turn in range(_ROUNDS):
        try:
            return TuningSpec.model_validate(document)
        except ValidationError as error:
            document = copy.deepcopy(document) if turn == 0 else document
            if not all(_mended(document, one) for one in error.errors(include_url=False, include_input=False)):
                raise
    return TuningSpec.model_validate(document)


def _mended(document: Any, error: Any) -> bool:
    found = _place(document, error["loc"])
    if found is None:
        return False
    holder, name = found
    if error["type"] == "extra_forbidden":
        del holder[name]
    elif error["type"] in _BOUNDS:
        holder[name] = error["ctx"][_BOUNDS[error["type"]]]
    else:
        return False
    return True


def _place(document: Any, path: Sequence[str | int]) -> tuple[Any, str | int] | None:
    """What holds the field, and its name there. Some parts of a path are no names but the kind of what was expected."""
    if not path:
        return None
    head, rest = path[0], path[1:]
    known = head in document if isinstance(document, dict) else isinstance(document, list) and isinstance(head, int)
    if known and not rest:
        return document, head
    below = _place(document[head], rest) if known else None
    return below if below is not None else _place(document, rest)
