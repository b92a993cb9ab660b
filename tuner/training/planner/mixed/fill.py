"""Layers per stage of a line: a first answer from the front, and every answer that could still win.

Both rest on T >= m t_s + (time of the stages before s) / v for every stage s: under a limit on T a stage holds so many
layers and no more, and what it takes narrows the stages behind it.
"""

from __future__ import annotations

import numpy as np

from tuner.training.columns import Array
from tuner.training.planner.mixed.cells import Table
from tuner.training.planner.mixed.lines import Lines

# Shares above a line's bound that its first answer is tried under: fine where good plans lie, coarse beyond.
_LADDER = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.055, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_ROUNDING = 1e-9  # of a layer


def first_answers(line: Lines, layers: int) -> tuple[Table, Array]:
    """Every line filled from the front under the least limit of the ladder that seats all layers, and what that takes
    at least; infinite where none does."""
    steps = len(_LADDER)
    every = line.some(np.repeat(np.arange(len(line)), steps))
    limit = every.pipe * (1.0 + np.tile(_LADDER, len(line)))
    filled = _filled(every, limit, layers)
    seated = (filled.sum(axis=1) == layers).reshape(-1, steps)
    first = np.arange(len(line)) * steps + seated.argmax(axis=1)
    found = filled[first]
    return found, np.where(seated.any(axis=1), least_seconds(line, found), np.inf)


def _filled(line: Lines, limit: Array, layers: int) -> Table:
    """Stage after stage as full as the limit lets it be; less than all layers in the end where it is too low."""
    p, v = line.pools.shape[1], line.virtual
    left, room = np.full(len(line), layers), limit.copy()
    out = np.zeros(line.pools.shape, dtype=np.int64)
    for stage in range(p):
        can = _under(line, room, slice(stage, stage + 1))[:, 0]
        out[:, stage] = np.maximum(np.minimum(can, left - v * (p - 1 - stage)), 0)
        left = left - out[:, stage]
        room = room - _taken(line, out[:, stage], stage)
    return np.asarray(np.where(np.all(out >= v[:, None], axis=1, keepdims=True), out, 0))


def _under(line: Lines, room: Array, stages: slice) -> Table:
    """Layers that some stages may hold where `room` seconds are left."""
    v = line.virtual[:, None]
    each = (line.forward[:, stages] + line.backward[:, stages]) * v
    extra = line.extra_forward[:, stages] + line.extra_backward[:, stages]
    count = np.floor(((room / line.micro_batches)[:, None] - extra) / each + _ROUNDING)
    return np.asarray(np.minimum(np.maximum(count, 0.0).astype(np.int64) * v, line.most[:, stages]))


def _taken(line: Lines, count: Table, stage: int) -> Array:
    busy = count * (line.forward[:, stage] + line.backward[:, stage])
    extra = line.extra_forward[:, stage] + line.extra_backward[:, stage]
    return np.asarray((busy + extra) / line.virtual + 2.0 * line.hops[:, stage])


def every_answer(line: Lines, layers: int, limit: float, most: int) -> tuple[Table, Table, bool]:
    """All layers per stage that may take less than `limit`: (line, layers per stage) tables, and whether that is all
    of them: no more than `most` are followed at once."""
    p = line.pools.shape[1]
    ends = np.floor((limit - line.pipe - line.tied)[:, None] / line.inner_tail + _ROUNDING)
    seats = np.minimum(line.most, np.maximum(ends, 0.0).astype(np.int64))
    at, left = np.arange(len(line)), np.full(len(line), layers)
    room, chosen = limit - line.tail, np.zeros((len(line), 0), dtype=np.int64)
    for stage in range(p):
        part = line.some(at)
        v, held = part.virtual, np.minimum(_under(part, room, slice(stage, None)), seats[at, stage:])
        held -= held % v[:, None]
        can = np.minimum(held[:, 0], left - v * (p - 1 - stage))
        need = np.maximum(-(-(left - held[:, 1:].sum(axis=1)) // v) * v, v)
        ways = np.maximum((can - need) // v + 1, 0)
        total = int(ways.sum())
        if total > most:
            return np.zeros(0, dtype=np.int64), np.zeros((0, p), dtype=np.int64), False
        who = np.repeat(np.arange(len(at)), ways)
        count = need[who] + v[who] * (np.arange(total) - np.repeat(np.cumsum(ways) - ways, ways))
        room = room[who] - _taken(part.some(who), count, stage)
        at, left = at[who], left[who] - count
        chosen = np.column_stack([chosen[who], count])
    done = left == 0
    return at[done], chosen[done], True


def least_seconds(line: Lines, layers: Table) -> Array:
    """What a line with these layers takes at least. Beside the bound of the module: under 1F1B a stage waits for its
    first gradient and, after its last forward pass, for its last one."""
    p, m = line.pools.shape[1], line.micro_batches[:, None]
    forward = line.forward * layers + line.extra_forward
    backward = line.backward * layers + line.extra_backward
    busy, hops = forward + backward, 2.0 * line.hops
    hops[:, -1] = 0.0
    way = np.cumsum(busy, axis=1) + np.cumsum(hops, axis=1)  # through a stage and over the boundary behind it
    before = (way - busy - hops) / line.virtual[:, None]
    behind = way[:, -1:] - way + hops
    warm = np.arange(p - 1, -1, -1.0)
    waits = np.maximum(behind - warm * forward, 0.0) + np.maximum(behind - warm * backward, 0.0)
    waits = np.where((line.virtual[:, None] == 1) & (m > warm + 1.0), waits, 0.0)
    piped = np.maximum((before + m * busy + waits).max(axis=1), line.floor)
    return np.asarray(piped + least_tail(line, layers))


def least_tail(line: Lines, layers: Table) -> Array:
    """What ends the iteration at least with these layers."""
    return np.asarray(np.maximum((layers * line.inner_tail).max(axis=1) + line.tied, line.tail))
