"""Label and field selectors, as far as controllers use them."""

from __future__ import annotations

import re
from typing import Any

_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s+\((?P<values>[^)]*)\)$")
_SPLIT = re.compile(r",(?![^(]*\))")


class Selector:
    """`a=b`, `a!=b`, `a`, `!a`, `a in (x,y)`, `a notin (x,y)`; fields by dotted path with `=` and `!=`."""

    def __init__(self, labels: str = "", fields: str = "") -> None:
        self._labels = [term.strip() for term in _SPLIT.split(labels) if term.strip()]
        self._fields = [term.strip() for term in fields.split(",") if term.strip()]

    def matches(self, obj: dict[str, Any]) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(_label_term(term, labels) for term in self._labels) and all(
            _field_term(term, obj) for term in self._fields
        )


def _label_term(term: str, labels: dict[str, str]) -> bool:
    by_set = _SET.match(term)
    if by_set is not None:
        values = {value.strip() for value in by_set["values"].split(",")}
        inside = labels.get(by_set["key"]) in values
        return inside if by_set["op"] == "in" else not inside
    if "!=" in term:
        key, value = term.split("!=", 1)
        return labels.get(key.strip()) != value.strip()
    if "=" in term:
        key, value = term.replace("==", "=").split("=", 1)
        return labels.get(key.strip()) == value.strip()
    return term[1:].strip() not in labels if term.startswith("!") else term in labels


def _field_term(term: str, obj: dict[str, Any]) -> bool:
    negated = "!=" in term
    path, value = term.split("!=" if negated else "=", 1)
    here: Any = obj
    for part in path.strip().split("."):
        here = here.get(part) if isinstance(here, dict) else None
    return ((here or "") == value.strip("= ")) != negated
