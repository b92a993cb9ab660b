"""What a load process tells of its first requests while the others are still sent: moments, and whether it failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

_WORD = b"early "


class Early(NamedTuple):
    """One request that was answered or given up; seconds from the common start."""

    number: int
    intended_s: float
    first_s: float | None
    last_s: float | None
    failed: bool = False


def as_line(rows: Sequence[Early]) -> str:
    """What a load process writes."""
    return f"{_WORD.decode()}{json.dumps(rows, separators=(',', ':'))}\n"


def is_early(line: bytes) -> bool:
    """Whether more follows."""
    return line.startswith(_WORD)


def from_line(line: bytes) -> list[Early]:
    """Of a line that `as_line` wrote."""
    return [Early(*row) for row in json.loads(line.removeprefix(_WORD))]
