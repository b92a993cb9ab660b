"""Requests from trace files: Azure 2023 (CSV), Mooncake (JSON lines with block hashes), our own JSON lines.

Files are untrusted: lines, line length and values are bounded, and an error names the line and the field.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.model.errors import InvalidSpec
from tuner.serving.replay.requests import MOST_REQUESTS, MOST_TOKENS, Requests, in_order
from tuner.serving.replay.sessions import SessionChains

LONGEST_LINE = 1 << 20  # bytes; a Mooncake line of a million-token prompt has 2,000 hashes
MOST_HASHES = 20_000  # of one line
MOONCAKE_BLOCK_TOKENS = 512  # tokens that one of its hashes stands for (its README)
MOST_SECONDS = 10 * 366 * 86400.0
PRIORITIES = 16


def read_trace(path: Path, *, limit: int | None = None) -> Requests:
    """The first `limit` rows. The format is told by the first line: Azure's header, Mooncake's hash_ids, or ours."""
    if limit is not None and limit < 1:
        raise InvalidSpec("nothing to read", field="limit", value=limit, limit="1 or more")
    lines = _lines(path)
    try:
        number, first = next(lines)
    except StopIteration:
        raise InvalidSpec("the trace is empty", field=path.name) from None
    if not first.lstrip("\ufeff").lstrip().startswith("{"):
        return _azure(path.name, first, lines, limit)
    row = _object(path.name, number, first)
    rows = _chain((number, first), lines)
    return (
        _mooncake(path.name, rows, limit) if "hash_ids" in row or "timestamp" in row else _ours(path.name, rows, limit)
    )


def _chain(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text) of lines that are not blank."""
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(raw) > LONGEST_LINE:
                    raise InvalidSpec("line too long", field=f"{path.name}:{number}", limit=f"{LONGEST_LINE} bytes")
                try:
                    text = raw.decode()
                except UnicodeDecodeError:
                    raise InvalidSpec("not UTF-8 text", field=f"{path.name}:{number}") from None
                if text.strip():
                    yield number, text
    except OSError as error:
        raise InvalidSpec(f"cannot be read: {error.strerror}", field="trace", value=str(path)) from error


def _more(count: int, limit: int | None, where: str) -> bool:
    if limit is not None and count >= limit:
        return False
    if count >= MOST_REQUESTS:
        raise InvalidSpec("too many requests", field=where, limit=f"{MOST_REQUESTS}; read the first with a limit")
    return True


def _azure(name: str, header: str, lines: Iterator[tuple[int, str]], limit: int | None) -> Requests:
    columns = [column.strip() for column in next(csv.reader([header.lstrip("\ufeff")]))]
    wanted = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
    missing = [column for column in wanted if column not in columns]
    if missing:
        raise InvalidSpec(
            "unknown trace format", field=f"{name}:1", value=header.strip()[:80],
            limit="a CSV header TIMESTAMP,ContextTokens,GeneratedTokens, or one JSON object per line",
        )  # fmt: skip
    when_at, in_at, out_at = (columns.index(column) for column in wanted)
    times: list[float] = []
    isl: list[int] = []
    osl: list[int] = []
    for number, text in lines:
        if not _more(len(times), limit, name):
            break
        cells = next(csv.reader([text]))
        if len(cells) != len(columns):
            raise InvalidSpec(
                "wrong number of cells", field=f"{name}:{number}", value=len(cells), limit=str(len(columns))
            )
        times.append(_timestamp(name, number, cells[when_at]))
        isl.append(_tokens(f"{name}:{number} ContextTokens", cells[in_at]))
        osl.append(_tokens(f"{name}:{number} GeneratedTokens", cells[out_at]))
    return _requests(name, times, isl, osl)


def _timestamp(name: str, number: int, text: str) -> float:
    """Seconds; seven decimals, of which the parser takes six."""
    whole, _, fraction = text.strip().partition(".")
    try:
        if fraction and not (fraction.isascii() and fraction.isdigit() and len(fraction) <= 9):
            raise ValueError
        seconds = (datetime.strptime(whole, "%Y-%m-%d %H:%M:%S") - datetime(2000, 1, 1)).total_seconds()
        return seconds + float(f"0.{fraction or 0}")
    except ValueError:
        raise InvalidSpec(
            "not a time",
            field=f"{name}:{number} TIMESTAMP",
            value=text.strip()[:40],
            limit="YYYY-MM-DD HH:MM:SS.fffffff",
        ) from None


def _ours(name: str, rows: Iterator[tuple[int, str]], limit: int | None) -> Requests:
    times: list[float] = []
    isl: list[int] = []
    osl: list[int] = []
    tenants: dict[str, int] = {}
    tenant: list[int] = []
    priority: list[int] = []
    session: list[str | None] = []
    for number, text in rows:
        if not _more(len(times), limit, name):
            break
        row = _object(name, number, text)
        where = f"{name}:{number}"
        unknown = sorted(set(row) - {"arrival_s", "isl", "osl", "session", "tenant", "priority"})
        if unknown:
            raise InvalidSpec(
                "unknown field",
                field=f"{where} {unknown[0][:40]}",
                limit="arrival_s, isl, osl, session, tenant, priority",
            )
        times.append(_seconds(f"{where} arrival_s", row.get("arrival_s"), 1.0))
        isl.append(_tokens(f"{where} isl", row.get("isl")))
        osl.append(_tokens(f"{where} osl", row.get("osl")))
        session.append(_name(f"{where} session", row.get("session")))
        label = _name(f"{where} tenant", row.get("tenant"))
        tenant.append(-1 if label is None else tenants.setdefault(label, len(tenants)))
        level = row.get("priority", 0)
        if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level < PRIORITIES:
            raise InvalidSpec("not a priority", field=f"{where} priority", value=level, limit=f"0 to {PRIORITIES - 1}")
        priority.append(level)
    return _requests(
        name, times, isl, osl, session=session if any(session) else None, tenant=tenant if tenants else None,
        tenants=tuple(tenants), priority=priority if any(priority) else None,
    )  # fmt: skip


def _mooncake(name: str, rows: Iterator[tuple[int, str]], limit: int | None) -> Requests:
    """Each hash stands for the text up to the end of its block of 512 tokens."""
    times: list[float] = []
    isl: list[int] = []
    osl: list[int] = []
    chains: list[list[int]] = []
    for number, text in rows:
        if not _more(len(times), limit, name):
            break
        row = _object(name, number, text)
        where = f"{name}:{number}"
        times.append(_seconds(f"{where} timestamp", row.get("timestamp"), 1e-3))
        isl.append(_tokens(f"{where} input_length", row.get("input_length")))
        osl.append(_tokens(f"{where} output_length", row.get("output_length")))
        hashes = row.get("hash_ids", [])
        good = isinstance(hashes, list) and len(hashes) <= MOST_HASHES
        if not good or any(isinstance(h, bool) or not isinstance(h, int) for h in hashes):
            raise InvalidSpec(
                "not a list of numbers", field=f"{where} hash_ids", limit=f"up to {MOST_HASHES} whole numbers"
            )
        chains.append(hashes)
    return _requests(name, times, isl, osl, hashes=chains)


def _requests(
    name: str, times: list[float], isl: list[int], osl: list[int], *, session: list[str | None] | None = None,
    tenant: list[int] | None = None, tenants: tuple[str, ...] = (), priority: list[int] | None = None,
    hashes: list[list[int]] | None = None,
) -> Requests:  # fmt: skip
    """Sorted by arrival, the first at 0."""
    if not times:
        raise InvalidSpec("the trace has no requests", field=name)
    order = in_order(times)
    arrival = np.array(times, np.float64)[order]
    arrival -= arrival[0]
    chains = SessionChains()
    for i in order:
        if hashes is not None:
            chains.add_hashes(isl[i], hashes[i], MOONCAKE_BLOCK_TOKENS)
        else:
            chains.add_turn(isl[i], osl[i], None if session is None else session[i])
    used = hashes is not None or session is not None
    return Requests(
        arrival_s=arrival, isl=np.array(isl, np.int64)[order], osl=np.array(osl, np.int64)[order],
        tenant=None if tenant is None else np.array(tenant, np.int64)[order], tenants=tenants,
        priority=None if priority is None else np.array(priority, np.int64)[order],
        **(chains.arrays() if used else {}),
    )  # fmt: skip


def _object(name: str, number: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        raise InvalidSpec("not JSON", field=f"{name}:{number}", value=text.strip()[:60]) from None
    if not isinstance(row, dict):
        raise InvalidSpec("not a JSON object", field=f"{name}:{number}", value=text.strip()[:60])
    return row


def _tokens(where: str, value: object) -> int:
    if isinstance(value, str):
        value = int(value) if value.strip().isascii() and value.strip().isdigit() and len(value) < 12 else value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_TOKENS:
        raise InvalidSpec("not a token count", field=where, value=_short(value), limit=f"1 to {MOST_TOKENS}")
    return value


def _seconds(where: str, value: object, unit_s: float) -> float:
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < 1e300 else math.inf  # whole numbers have no bound
    if not 0 <= number * unit_s <= MOST_SECONDS:
        clock = MOST_SECONDS < number * unit_s < math.inf
        raise InvalidSpec(
            "not a time", field=where, value=_short(value), limit="0 to ten years",
            hint="times count from the start of the trace: subtract the first one's clock time" if clock else None,
        )  # fmt: skip
    return number * unit_s


def _name(where: str, value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or len(str(value)) > 200:
        raise InvalidSpec("not a name", field=where, value=_short(value), limit="text of up to 200 characters")
    return str(value)


def _short(value: object) -> object:
    return value if value is None or isinstance(value, int | float) else str(value)[:40]
