"""Measured rows of a published table, what was dropped from it and why."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.training import TrainingCase

MAX_BYTES = 32 << 20
MAX_ROWS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement. `size` and `pattern` are the groups of the error report; None: not measured in this row."""

    line: int
    case: TrainingCase
    size: str
    pattern: str
    iteration_s: float | None = None
    layer_s: float | None = None  # forward and backward of one layer and one micro-batch
    memory_bytes: float | None = None
    whole_process: bool = False  # memory with driver context, communication buffers and allocator slack
    last_stage: bool = False  # memory of the last stage, not of the fullest
    note: str = ""


@dataclass(slots=True)
class Table:
    """The usable rows of one file, and the lines that were left out, each with its reason."""

    name: str
    rows: list[Row] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)
    assumed: str = ""  # what the file does not say and the loader assumes

    def drop(self, line: int, reason: str) -> None:
        """Leaves a line out and says why."""
        self.dropped.append((line, reason))


def records(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Numbered records of a CSV file. Raises Refused for unverified data, InvalidSpec for what is no such table."""
    if "unverified" in path.resolve().parts:
        raise Refused(
            "unverified data is neither fitted nor scored", field="data", value=path.name,
            hint="use the tables with a primary source",
        )  # fmt: skip
    if path.stat().st_size > MAX_BYTES:
        raise InvalidSpec("file too large", field="data", value=path.stat().st_size, limit=f"{MAX_BYTES} bytes")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        found: list[tuple[int, dict[str, str]]] = []
        for record in reader:
            if len(found) == MAX_ROWS:
                raise InvalidSpec("too many rows", field="data", value=path.name, limit=str(MAX_ROWS))
            found.append((reader.line_num, {key: value or "" for key, value in record.items() if key is not None}))
    return found


def number(record: dict[str, str], name: str) -> float:
    """A cell as a finite number. Raises InvalidSpec naming column and value."""
    text = record.get(name, "")
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        raise InvalidSpec("is not a number", field=name, value=text[:60]) from None
    if not math.isfinite(value):
        raise InvalidSpec("is not finite", field=name, value=text[:60])
    return value


def whole(record: dict[str, str], name: str) -> int:
    """A cell as a whole number of at least 1. Raises InvalidSpec naming column and value."""
    value = number(record, name)
    if value != int(value) or value < 1:
        raise InvalidSpec("is no whole number of at least 1", field=name, value=record[name][:60])
    return int(value)
