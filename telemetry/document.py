"""What the API says about the engine pods of one deployment: JSON in columns, of bounded size."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from telemetry.summary import summarise
from telemetry.window import Float64s, Slice, Window

MAX_PODS = 32
MAX_ROWS = 720
# 12 MB of JSON at most, encoded in some 50 ms.
MAX_CELLS = 500_000
_HISTOGRAM_PARTS = ("_sum", "_count")


@dataclass(frozen=True, slots=True)
class Asked:
    """What to show: pods (empty: all), series (empty: all; a histogram's name means all its columns), newest rows."""

    since_s: float
    pods: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    max_rows: int = MAX_ROWS


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Copies of the windows' rows, so that encoding can go on beside the event loop."""

    shown: Mapping[str, Slice]
    asked: Asked
    pods_left_out: tuple[str, ...]
    not_held_here: tuple[str, ...]


async def snapshot(windows: Mapping[str, Window], pods: Iterable[str], asked: Asked, now_s: float) -> Snapshot:
    """The rows of the asked span. `windows` are the pods held here, `pods` all pods that answer for the deployment.

    The first MAX_PODS pods in the order of their names are shown; the others are named.
    """
    wanted = {pod for pod in [*windows, *pods] if not asked.pods or pod in asked.pods}
    held = sorted(wanted & set(windows))
    shown: dict[str, Slice] = {}
    for pod in held[:MAX_PODS]:
        shown[pod] = windows[pod].since(now_s - asked.since_s)
        await asyncio.sleep(0)  # copies of full windows take milliseconds each
    return Snapshot(
        shown,
        asked,
        tuple(held[MAX_PODS:]),
        tuple(sorted(wanted - set(windows))),
    )


def encode(taken: Snapshot) -> bytes:
    """The JSON document; null marks a gap. Pure, and slow for full windows: run it in a thread.

    The newest `asked.max_rows` rows of each pod are shown, fewer when the whole would hold more than MAX_CELLS numbers;
    `limits` says how many rows and pods were allowed, and what was left out. `summary` is made from all rows of the span,
    whatever columns and rows are shown.
    """
    names = {pod: _names(rows.columns, taken.asked.columns) for pod, rows in taken.shown.items()}
    width = sum(len(columns) + 1 for columns in names.values())
    max_rows = max(1, min(taken.asked.max_rows, MAX_CELLS // max(1, width)))
    pods: dict[str, msgspec.Raw] = {}
    rows_left_out = 0
    for pod, rows in taken.shown.items():
        rows_left_out += max(0, len(rows.time_s) - max_rows)
        columns = {"timeS": _tail(rows.time_s, max_rows)}
        columns |= {name: _tail(rows.columns[name], max_rows) for name in names[pod]}
        # One pod at a time: an encoder holds the interpreter, and the event loop wants its turn in between.
        pods[pod] = msgspec.Raw(msgspec.json.encode(columns))
    document: dict[str, Any] = {
        "summary": {pod: _summary(rows) for pod, rows in taken.shown.items()},
        "pods": pods,
        "notHeldHere": taken.not_held_here,
        "limits": {
            "rows": max_rows,
            "rowsLeftOut": rows_left_out,
            "pods": MAX_PODS,
            "podsLeftOut": taken.pods_left_out,
        },
    }
    return msgspec.json.encode(document)


def _summary(rows: Slice) -> dict[str, Any]:
    known = summarise(rows)
    return {
        "requestsRunning": known.requests_running,
        "requestsWaiting": known.requests_waiting,
        "kvCacheUseRatio": known.kv_cache_use_ratio,
        "promptTokensPerS": known.prompt_tokens_per_s,
        "generationTokensPerS": known.generation_tokens_per_s,
        "ttftS": known.ttft_s,
        "interTokenS": known.inter_token_s,
    }


def _names(columns: Collection[str], asked: frozenset[str]) -> list[str]:
    return sorted(name for name in columns if not asked or name in asked or _histogram(name) in asked)


def _histogram(column: str) -> str:
    for part in _HISTOGRAM_PARTS:
        if column.endswith(part):
            return column.removesuffix(part)
    return column.partition("_bucket:")[0]


def _tail(column: Float64s, rows: int) -> list[float]:
    """JSON has no infinity and no NaN: the encoder writes both as null."""
    values: list[float] = column[-rows:].tolist()
    return values
