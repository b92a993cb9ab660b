"""Reads one JSON object that a user wrote: every error names the field, the value, the limit and the way out."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from controlplane.catalog import nearest
from controlplane.model.errors import InvalidSpec, UnknownName

MAX_LINE_BYTES = 64 * 1024
_SHOWN = 60  # characters of a wrong value that an error repeats


class Fields:
    """One object's fields. Each is asked for once, with its type and bounds; `path` is where the object stands."""

    def __init__(self, data: object, known: Collection[str], path: str = "") -> None:
        if not isinstance(data, Mapping):
            raise InvalidSpec("must be an object", field=path or "line", value=shown(data), limit="{...}")
        self._data: Mapping[str, Any] = data
        self._path = path
        for name in data:
            if name not in known:
                close = nearest(name, known)
                hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"
                raise UnknownName("unknown field", field=self.at(str(shown(name))), value=shown(name), hint=hint)

    def at(self, name: str) -> str:
        """Path of a field, as errors spell it."""
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        """Whether the field is there; null counts as absent."""
        return self._data.get(name) is not None

    def raw(self, name: str) -> Any:
        """The value as JSON gave it; None when absent."""
        return self._data.get(name)

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A whole number in [low, high]; 8.0 counts as 8."""
        value = self._data.get(name)
        if value is None:
            return None
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(whole, bool) or not isinstance(whole, int):
            self.fail(name, "must be a whole number", f"{low} to {high}")
        if not low <= whole <= high:
            self.fail(name, "out of range", f"{low} to {high}")
        return whole

    def number(self, name: str, low: float, high: float, *, open_low: bool = False) -> float | None:
        """A finite number in [low, high], or in (low, high] with `open_low`."""
        value = self._data.get(name)
        if value is None:
            return None
        limit = f"{'above ' if open_low else ''}{low:g} to {high:g}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(name, "must be a number", limit)
        if not low <= value <= high or (open_low and value == low):
            self.fail(name, "out of range", limit)
        return float(value)

    def text(self, name: str, longest: int) -> str | None:
        """Printable text of 1 to `longest` characters."""
        value = self._data.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not 1 <= len(value) <= longest or not value.isprintable():
            self.fail(name, "must be plain text", f"1 to {longest} characters")
        return value

    def flag(self, name: str) -> bool | None:
        """true or false."""
        value = self._data.get(name)
        if value is not None and not isinstance(value, bool):
            self.fail(name, "must be true or false", "true, false")
        return value

    def inside(self, name: str, known: Collection[str]) -> Fields | None:
        """The object in a field; its own fields are checked against `known`."""
        value = self._data.get(name)
        return None if value is None else Fields(value, known, self.at(name))

    def need(self, name: str, why: str = "needed") -> NoReturn:
        """The error for an absent field."""
        raise InvalidSpec(f"is {why}", field=self.at(name), hint=f"add {json.dumps(name)}")

    def fail(self, name: str, message: str, limit: str) -> NoReturn:
        """The error for an unusable value."""
        raise InvalidSpec(message, field=self.at(name), value=shown(self._data.get(name)), limit=limit)


def read_object(line: str | bytes) -> Any:
    """One line of JSON, strictly: bounded, without repeated keys, NaN or infinities. Raises InvalidSpec."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidSpec("line too long", field="line", value=len(line), limit=f"{MAX_LINE_BYTES} bytes")
    try:
        return json.loads(line, object_pairs_hook=_no_repeats, parse_constant=_no_constants)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidSpec(f"is not JSON: {reason}", field="line") from None


def shown(value: object) -> object:
    """A wrong value as errors repeat it: short, and never NaN."""
    if isinstance(value, str):
        return value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < 1e15 and math.isfinite(value):
        return value
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)[:_SHOWN]!r} stands twice")
    return found


def _no_constants(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
