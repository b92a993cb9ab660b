"""Reads measured runs from tables: the silicon_sample.csv schema, a plain CSV, and JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from controlplane.model.errors import InvalidSpec, TrimtabError, Unsupported
from tuner.serving.calibration.importers import MAX_ROWS, readable
from tuner.serving.calibration.measurement import STATISTICS, Measurement, read_measurement, with_case
from tuner.serving.calibration.rows import row_question
from tuner.serving.calibration.silicon import load_silicon
from tuner.serving.fields import read_object
from tuner.serving.question import FIELDS

_ARRIVALS = ("closed", "poisson", "gamma", "burst", "cv")
_LATENCIES = tuple(f"{metric}_{word}_ms" for metric in ("ttft", "tpot") for word in STATISTICS)
_NESTED = ("arrivals", "knobs", "disagg")


def read_silicon(path: Path, case: Mapping[str, Any]) -> list[Measurement]:
    """Rows of the sample's schema that say enough to be asked; the case must be empty, the rows know theirs."""
    if case:
        raise InvalidSpec("rows of this format name their own case", field="case", value=", ".join(sorted(case)))
    found = []
    for row in load_silicon(readable(path)):
        try:
            question = row_question(row)
        except Unsupported:
            continue  # roles without worker counts: nothing to predict
        found.append(
            Measurement(
                question=question,
                ttft_ms={"mean": row.ttft_ms},
                tpot_ms={"mean": row.tpot_ms},
                source=f"{path.name}:{row.line}",
            )
        )
    return found


def read_csv(path: Path, case: Mapping[str, Any]) -> list[Measurement]:
    """Columns are batch-interface fields (model, system, backend, tp, isl, osl, ...), one of `closed`, `poisson`,
    `gamma`, `burst`, and latencies as `ttft_mean_ms`, `ttft_p99_ms`, `tpot_mean_ms`, ... Empty cells are absent."""
    with _names_file(path), readable(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        allowed = {*(FIELDS - set(_NESTED)), *_ARRIVALS, *_LATENCIES}
        strange = [name for name in reader.fieldnames or () if name not in allowed and not name.startswith("knobs.")]
        if strange:
            raise InvalidSpec("unknown column", field=f"{path}:1", value=strange[0], limit=", ".join(sorted(allowed)))
        return [_cells(cells, case, f"{path.name}:{reader.line_num}") for cells in _bounded(reader, path)]


def read_jsonl(path: Path, case: Mapping[str, Any]) -> list[Measurement]:
    """Lines of the batch interface with `measured {ttft_ms {mean, ...}, tpot_ms {mean, ...}}` in each."""
    found = []
    with _names_file(path), readable(path).open("rb") as file:
        for number, line in enumerate(_bounded(file, path), 1):
            if line.strip():
                where = f"{path.name}:{number}"
                with _names_line(where):
                    data = read_object(line)
                    found.append(read_measurement(with_case(case, data) if isinstance(data, dict) else data, where))
    return found


def _cells(cells: Mapping[str, str | None], case: Mapping[str, Any], where: str) -> Measurement:
    given = {name: _value(text) for name, text in cells.items() if name is not None and text}
    arrivals = {name: given.pop(name) for name in _ARRIVALS if name in given}
    knobs = {name.removeprefix("knobs."): given.pop(name) for name in list(given) if name.startswith("knobs.")}
    measured: dict[str, dict[str, Any]] = {"ttft_ms": {}, "tpot_ms": {}}
    for name in _LATENCIES:
        if name in given:
            metric, word, _ = name.split("_")
            measured[f"{metric}_ms"][word] = given.pop(name)
    found = {**given, "arrivals": arrivals or None, "knobs": knobs or None}
    with _names_line(where):
        return read_measurement({**with_case(case, found), "measured": measured}, where)


def _value(text: str) -> Any:
    """A cell as JSON reads it (numbers, true, false), else the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()
    return value if isinstance(value, bool | int | float) else text.strip()


def _bounded(lines: Any, path: Path) -> Iterator[Any]:
    for number, line in enumerate(lines):
        if number >= MAX_ROWS:
            raise InvalidSpec("too many rows", field=str(path), limit=str(MAX_ROWS))
        yield line


@contextmanager
def _names_file(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidSpec(f"cannot be read: {error}", field=str(path)) from error


@contextmanager
def _names_line(where: str) -> Iterator[None]:
    try:
        yield
    except TrimtabError as error:
        raise type(error)(
            error.message, field=f"{where}: {error.field}", value=error.value, limit=error.limit, hint=error.hint
        ) from None
