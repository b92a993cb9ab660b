"""Conditions and finalizers as pure functions, and whether a status is worth writing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from operators.runtime.clock import rfc3339

Status = Literal["True", "False", "Unknown"]
# metav1.Condition: reason is CamelCase, at most 1,024 characters; message at most 32,768.
_REASON = re.compile(r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
REASON_LIMIT_CHARS = 1_024
MESSAGE_LIMIT_CHARS = 32_768


class Condition(msgspec.Struct, frozen=True, gc=False):
    """`metav1.Condition`. Decodes from and encodes to the API's JSON."""

    type: str
    status: Status
    reason: str
    message: str = ""
    observedGeneration: int | None = None
    lastTransitionTime: str = ""

    def __post_init__(self) -> None:
        if len(self.reason) > REASON_LIMIT_CHARS or not _REASON.match(self.reason):
            raise ValueError(
                f"condition {self.type}: reason {self.reason!r} must be CamelCase, at most {REASON_LIMIT_CHARS} characters"
            )


def set_condition(conditions: Sequence[Condition], new: Condition, now: datetime) -> tuple[Condition, ...]:
    """`conditions` with `new` in its type's place. `lastTransitionTime` moves only when the status value changes."""
    old = find_condition(conditions, new.type)
    since = old.lastTransitionTime if old is not None and old.status == new.status else ""
    message = new.message
    if len(message) > MESSAGE_LIMIT_CHARS:
        message = message[: MESSAGE_LIMIT_CHARS - 1] + "…"
    placed = msgspec.structs.replace(new, lastTransitionTime=since or rfc3339(now), message=message)
    if old is None:
        return (*conditions, placed)
    return tuple(placed if c.type == new.type else c for c in conditions)


def find_condition(conditions: Iterable[Condition], kind: str) -> Condition | None:
    return next((c for c in conditions if c.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    found = find_condition(conditions, kind)
    return found is not None and found.status == "True"


def dominant(conditions: Iterable[Condition], order: Sequence[str]) -> Condition | None:
    """The one condition that explains the object: the first type in `order` that is not True, else the last that is.

    `order` lists the types from the cause to the effect (Accepted, Placed, Progressing, Ready): the earliest broken
    link is the reason to show, and everything after it only follows.
    """
    by_type = {c.type: c for c in conditions}
    present = [by_type[kind] for kind in order if kind in by_type]
    return next((c for c in present if c.status != "True"), present[-1] if present else None)


def status_changed(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Whether `new` says anything that `old` does not: the comparison before every status write.

    Absent, null and empty values are equal (the API server drops what a schema calls empty), and of conditions the
    transition time alone is no news.
    """
    return not _same(old or {}, new, in_condition=False)


def _same(old: Any, new: Any, *, in_condition: bool) -> bool:
    # Walks both sides at once and builds nothing: this runs in every reconcile.
    if isinstance(old, msgspec.Struct):
        old = msgspec.to_builtins(old)
    if isinstance(new, msgspec.Struct):
        new = msgspec.to_builtins(new)
    if isinstance(new, Mapping) and isinstance(old, Mapping):
        for key, value in new.items():
            if in_condition and key == "lastTransitionTime":
                continue
            before = old.get(key)
            if _empty(value):
                if not _empty(before):
                    return False
            elif not _same(before, value, in_condition=key == "conditions"):
                return False
        return all(
            key in new or _empty(value) or (in_condition and key == "lastTransitionTime") for key, value in old.items()
        )
    if isinstance(new, list | tuple) and isinstance(old, list | tuple):
        return len(new) == len(old) and all(
            _same(before, value, in_condition=in_condition) for before, value in zip(old, new, strict=True)
        )
    return bool(old == new)


def _empty(value: Any) -> bool:
    return value is None or (not value and value.__class__ in (dict, list, tuple, str))


def with_finalizer(finalizers: Sequence[str], name: str) -> tuple[str, ...] | None:
    """The list with `name` added; None when it is there already and nothing needs writing."""
    return None if name in finalizers else (*finalizers, name)


def without_finalizer(finalizers: Sequence[str], name: str) -> tuple[str, ...] | None:
    """The list with `name` removed; None when it is not there and nothing needs writing."""
    return None if name not in finalizers else tuple(f for f in finalizers if f != name)
