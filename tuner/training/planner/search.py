"""Best first branch and bound over cells: the cell that could be fastest is opened next, all its leaves are costed at
once, and a cell that cannot beat the kept plans is never opened. Exact within the space once no cell is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuner.training.columns import Array
from tuner.training.constants import Constants
from tuner.training.iteration import iteration
from tuner.training.memory import stage_totals
from tuner.training.planner.bounds import least_seconds, least_spare_bytes
from tuner.training.planner.fewest import leanest, open_rows, settled
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.rows import CELL_WIDTH, PP, WIDTH, Table, as_columns
from tuner.training.planner.space import cells, leaves
from tuner.training.room import usable_bytes

KEPT = 128  # fastest plans that fit, all of them exact: the front and the runners-up come from these
LOSERS = 512  # fastest plans met that do not fit: many of them split the work alike
_FIRST, _CHUNK = 32, 1024  # cells opened together: few until there is something to beat


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where the search stands. `bound_s`: no plan of the space is faster; None without a plan yet."""

    incumbent_s: float | None
    bound_s: float | None
    cells_left: int

    @property
    def gap(self) -> float | None:
        """How much faster than the incumbent a plan could still be, as a share."""
        if self.incumbent_s is None or self.bound_s is None:
            return None
        return max(1.0 - self.bound_s / self.incumbent_s, 0.0)


@dataclass(frozen=True, slots=True)
class Found:
    """Plans that fit, fastest first, and the fastest met that do not (`losers`)."""

    rows: Table
    seconds: Array
    losers: Table
    loser_seconds: Array
    snapshot: Snapshot
    cells: int
    cells_out_of_memory: int
    leaves_costed: int


Progress = Callable[[Snapshot], None]


def search(
    question: PlanQuestion, constants: Constants, *, progress: Progress | None = None, limit_s: float | None = None
) -> Found:
    """All there is to know about the fastest plans. With `limit_s` it may stop early, and then says how far off the
    incumbent can be; without, the answer depends on the question alone."""
    started = time.monotonic()
    table = cells(question)
    if not len(table):
        return _nothing(table)
    spread = len(question.rules.vocab_parallel) > 1
    bounds = least_seconds(as_columns(question, _bare(table), constants), constants, spread=spread)
    fits = _may_fit(question, table, constants)
    out = int(len(table) - fits.sum())
    order = np.argsort(bounds[fits], kind="stable")
    table, bounds = table[fits][order], bounds[fits][order]
    kept, lost = _Best(KEPT), _Best(LOSERS)
    at, step, costed = 0, _FIRST, 0
    while at < len(table) and bounds[at] <= kept.worst:
        if limit_s is not None and time.monotonic() - started > limit_s:
            break
        chunk = table[at : at + step][bounds[at : at + step] <= kept.worst]
        at, step = at + step, _CHUNK
        rows = leaves(question, chunk)
        costed += len(rows)
        _open(question, rows, constants, kept, lost)
        if progress is not None:
            progress(_snapshot(kept, bounds, at))
    left = _snapshot(kept, bounds, at)
    return Found(kept.rows, kept.seconds, lost.rows, lost.seconds, left, len(fits), out, costed)


def spare_bytes(question: PlanQuestion, rows: Table, constants: Constants) -> tuple[Array, Table]:
    """Bytes free on the fullest stage of each leaf (negative: short), and which stage that is."""
    limit = memory_limit(question)
    spare, stage = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    for pp in np.unique(rows[:, PP]):
        which = np.flatnonzero(rows[:, PP] == pp)
        totals = stage_totals(as_columns(question, rows[which], constants), constants, int(pp))
        stage[which] = totals.argmax(axis=1)
        spare[which] = limit - totals.max(axis=1)
    return spare, stage


def nearest_to_fitting(question: PlanQuestion, constants: Constants) -> tuple[Table, int, float] | None:
    """The leaf that lacks least, its fullest stage, and its bytes free there (negative: short). None where the space
    is empty."""
    table = cells(question)
    if not len(table):
        return None
    bounds = _least_spare(question, table, constants)
    best: tuple[Table, int, float] | None = None
    for cell in np.argsort(-bounds, kind="stable"):
        if best is not None and bounds[cell] <= best[2]:
            break
        rows = leanest(question, leaves(question, table[cell : cell + 1]))
        if not len(rows):
            continue
        spare, stage = spare_bytes(question, rows, constants)
        top = int(spare.argmax())
        if best is None or spare[top] > best[2]:
            best = rows[top], int(stage[top]), float(spare[top])
    return best


def memory_limit(question: PlanQuestion) -> float:
    """Bytes that a plan may fill on each accelerator of the pool."""
    return usable_bytes(question.case.pools[0])


def _open(question: PlanQuestion, rows: Table, constants: Constants, kept: _Best, lost: _Best) -> None:
    if not len(rows):
        return
    # A row that is still open counts with one layer recomputed or away, which is its fastest.
    least = rows.copy()
    least[open_rows(rows)] = np.abs(least[open_rows(rows)])
    seconds = iteration(as_columns(question, least, constants), constants).seconds
    fast = seconds <= kept.worst
    rows, seconds = rows[fast], seconds[fast]
    still = open_rows(rows)
    if still.any():
        closed = settled(question, rows[still], lambda part: spare_bytes(question, part, constants)[0])
        took = iteration(as_columns(question, closed, constants), constants).seconds
        rows, seconds = np.vstack([rows[~still], closed]), np.concatenate([seconds[~still], took])
    spare, _ = spare_bytes(question, rows, constants)
    kept.add(rows[spare >= 0], seconds[spare >= 0])
    lost.add(rows[spare < 0], seconds[spare < 0])


def _may_fit(question: PlanQuestion, table: Table, constants: Constants) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return _least_spare(question, table, constants) >= 0


def _least_spare(question: PlanQuestion, table: Table, constants: Constants) -> Array:
    spare, limit = np.zeros(len(table)), memory_limit(question)
    for pp in np.unique(table[:, PP]):
        which = table[:, PP] == pp
        spare[which] = least_spare_bytes(question, table[which], constants, limit)
    return spare


def _bare(table: Table) -> Table:
    rows = np.zeros((len(table), WIDTH), dtype=np.int64)
    rows[:, :CELL_WIDTH] = table
    return rows


def _snapshot(kept: _Best, bounds: Array, at: int) -> Snapshot:
    best = float(kept.seconds[0]) if len(kept.seconds) else None
    open_cells = bounds[at:][bounds[at:] <= kept.worst]
    bound = best if not len(open_cells) else float(open_cells[0])
    return Snapshot(best, bound if best is None or bound is None else min(bound, best), len(open_cells))


def _nothing(table: Table) -> Found:
    rows = np.zeros((0, WIDTH), dtype=np.int64)
    return Found(rows, np.zeros(0), rows, np.zeros(0), Snapshot(None, None, 0), len(table), 0, 0)


class _Best:
    """The fastest rows so far; ties go to the row that the degrees name first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.rows: Table = np.zeros((0, WIDTH), dtype=np.int64)
        self.seconds: Array = np.zeros(0)

    @property
    def worst(self) -> float:
        """What a newcomer has to beat."""
        return float(self.seconds[-1]) if len(self.seconds) == self._size else np.inf

    def add(self, rows: Table, seconds: Array) -> None:
        """Merge."""
        rows, seconds = np.vstack([self.rows, rows]), np.concatenate([self.seconds, seconds])
        order = np.lexsort((*rows.T[::-1], seconds))[: self._size]
        self.rows, self.seconds = rows[order], seconds[order]
