"""Checks of single fields of a JSON request. Each raises ApiError naming the field, the value and the limit."""

from __future__ import annotations

import math
from typing import Any

from trimtab_engine.errors import ApiError


def invalid(param: str, message: str) -> ApiError:
    """A 400 about one field."""
    return ApiError(400, f"{param}: {message}", "invalid_value", param=param)


def shown(value: object) -> str:
    """A value as an error message may repeat it: short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def boolean(body: dict[str, Any], name: str, default: bool) -> bool:
    """A JSON true or false; null counts as absent."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise invalid(name, f"{shown(value)} is not true or false")
    return value


def integer(body: dict[str, Any], name: str, default: int | None, low: int, high: int) -> int | None:
    """An integer in [low, high]; null counts as absent."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(name, f"{shown(value)} is not an integer")
    if not low <= value <= high:
        raise invalid(name, f"{shown(value)} is out of range; must be from {low} to {high}")
    return value


def number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    """A finite number in [low, high]; null counts as absent."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(name, f"{shown(value)} is not a number")
    if not low <= value <= high:
        raise invalid(name, f"{shown(value)} is out of range; must be from {low:g} to {high:g}")
    return float(value)


def strings(body: dict[str, Any], name: str, most: int, longest: int) -> tuple[str, ...]:
    """One string or a list of them, none empty; null counts as absent. `longest` is in characters."""
    value = body.get(name)
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise invalid(name, f"{shown(value)} is not a string or a list of strings")
    if len(items) > most:
        raise invalid(name, f"{len(items)} entries; the limit is {most}")
    for item in items:
        if not item:
            raise invalid(name, "an empty string would stop at once; leave it out")
        if len(item) > longest:
            raise invalid(name, f"an entry of {len(item)} characters; the limit is {longest}")
        encodable(name, item)
    return tuple(items)


def integers(body: dict[str, Any], name: str, most: int, high: int) -> tuple[int, ...]:
    """A list of integers in [0, high]; null counts as absent."""
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise invalid(name, f"{shown(value)} is not a list of integers")
    if len(value) > most:
        raise invalid(name, f"{len(value)} entries; the limit is {most}")
    for item in value:
        if not 0 <= item <= high:
            raise invalid(name, f"{item} is out of range; must be from 0 to {high}")
    return tuple(value)


def encodable(name: str, text: str) -> bytes:
    """The UTF-8 bytes of a text; JSON can carry half a surrogate pair, which has none."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise invalid(name, f"has a lone surrogate at character {error.start}; send valid Unicode") from error
