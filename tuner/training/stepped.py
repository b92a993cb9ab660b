"""Pipeline time of many plans at once, pass by pass: the same schedule on stages of any speed, with a transfer time
for every boundary.

Passes of a fixed order (GPipe, 1F1B, interleaved) are sorted by depth once per (schedule, p, m, v); passes of one depth
run on different stages and wait for none of each other, so a step handles all of them for all plans. `simulate` gives
the same times for one plan and one transfer time, with a bar for every pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.training.columns import Array
from tuner.training.simulate import Pass, fixed_order

MAX_PASSES = 200_000
_BATCH = 1 << 22  # ends of passes held at once, all plans together: 32 MiB
_Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Step:
    """Passes of one depth: their stage, kind (0 forward, 1 backward), number, the pass whose data they need and the
    boundary that it crosses (the last column where there is none)."""

    stage: _Ints
    kind: _Ints
    number: _Ints
    needs: _Ints
    boundary: _Ints


def steppable(schedule: str, p: int, m: int, v: int) -> bool:
    """Whether this schedule has a fixed order that is short enough to step through."""
    return schedule in ("gpipe", "1f1b", "interleaved") and 2 * p * m * v <= MAX_PASSES


def stepped_seconds(schedule: str, m: int, v: int, forward: Array, backward: Array, hops: Array) -> Array:
    """Seconds of m micro-batches. `forward`, `backward`: of one micro-batch, shape (plans, stages); `hops`: one
    transfer over each boundary, shape (plans, stages); the last column is the way from the last stage back to the
    first, which only virtual stages take."""
    plans, p = forward.shape
    steps = _steps(schedule, p, m, v)
    size = max(_BATCH // (2 * p * m * v), 1)
    parts = [
        _run(steps, 2 * p * m * v, v, *(part[at : at + size] for part in (forward, backward, hops)))
        for at in range(0, plans, size)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _run(steps: tuple[_Step, ...], passes: int, v: int, forward: Array, backward: Array, hops: Array) -> Array:
    plans, p = forward.shape
    took = np.ascontiguousarray(np.stack([forward, backward]).transpose(0, 2, 1) / v)  # (kind, stage, plan)
    way = np.vstack([hops.T, np.zeros((1, plans))])
    ends = np.empty((passes + 1, plans))
    ends[passes] = 0.0  # what a pass that needs nothing waits for
    clock = np.zeros((p, plans))
    for step in steps:
        start = np.maximum(clock[step.stage], ends[step.needs] + way[step.boundary])
        start += took[step.kind, step.stage]
        ends[step.number] = start
        clock[step.stage] = start
    return np.asarray(clock.max(axis=0))


@lru_cache(maxsize=64)
def _steps(schedule: str, p: int, m: int, v: int) -> tuple[_Step, ...]:
    orders = fixed_order(schedule, p, m, v)
    depth: dict[tuple[str, int, int], int] = {}
    levels: dict[int, list[tuple[int, ...]]] = {}
    reached, at = [0] * p, [0] * p
    waiting = True
    while waiting:
        waiting = False
        for stage in range(p):
            while at[stage] < len(orders[stage]):
                kind, place, micro = _placed(orders[stage][at[stage]], stage, p)
                needed = _needs(kind, place, micro, p * v)
                if needed is not None and needed not in depth:
                    break
                level = max(reached[stage], 0 if needed is None else depth[needed] + 1)
                depth[kind, place, micro] = level
                reached[stage] = level + 1
                number = _number(kind, place, micro, m, p * v)
                source = 2 * p * m * v if needed is None else _number(*needed, m, p * v)
                crossed = p if needed is None or needed[1] == place else min(place, needed[1]) % p
                levels.setdefault(level, []).append((stage, int(kind == "B"), number, source, crossed))
                at[stage] += 1
                waiting = True
    return tuple(_Step(*np.array(levels[level], dtype=np.intp).T.copy()) for level in sorted(levels))


def _placed(one: Pass, stage: int, p: int) -> tuple[str, int, int]:
    kind, chunk, micro = one
    return kind[0], chunk * p + stage, micro


def _needs(kind: str, place: int, micro: int, places: int) -> tuple[str, int, int] | None:
    if kind == "F":
        return ("F", place - 1, micro) if place else None
    return ("F", place, micro) if place == places - 1 else ("B", place + 1, micro)


def _number(kind: str, place: int, micro: int, m: int, places: int) -> int:
    return ((kind == "B") * places + place) * m + micro


def ring(hops: Array, back: Any) -> Array:
    """Transfers between neighbours with the way back from the last stage to the first behind them."""
    return np.column_stack([hops, np.broadcast_to(back, len(hops))])
