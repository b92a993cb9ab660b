"""How many layers are recomputed or offloaded where only a part of them is: the fewest that make a plan fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tuner.training.columns import Array
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.rows import AGAIN, AWAY, FEWEST, PP, RECOMPUTE, Table, layers_per_chunk


def open_rows(rows: Table) -> NDArray[np.bool_]:
    """Rows whose number of layers is still open."""
    return np.asarray((rows[:, AGAIN] == FEWEST) | (rows[:, AWAY] == FEWEST))


def leanest(question: PlanQuestion, rows: Table) -> Table:
    """Open rows with as many layers as there can be."""
    return _with(rows, _most(question, rows))


def settled(question: PlanQuestion, rows: Table, spare: Callable[[Table], Array]) -> Table:
    """Open rows with the fewest layers that fit. Without a row that fits at none of them, and without those that do
    not fit with all recomputed: both stand in the table as rows of their own. What does not fit with all of its layers
    away stays, with all of them."""
    bare = rows.copy()
    bare[:, RECOMPUTE] = np.where(rows[:, AGAIN] == FEWEST, 0, rows[:, RECOMPUTE])
    bare[:, AGAIN], bare[:, AWAY] = np.maximum(rows[:, AGAIN], 0), np.maximum(rows[:, AWAY], 0)
    rows = rows[spare(bare) < 0]
    if not len(rows):
        return rows
    most = _most(question, rows)
    fits = spare(_with(rows, most)) >= 0
    hopeless = _with(rows[~fits & (rows[:, AWAY] == FEWEST)], most[~fits & (rows[:, AWAY] == FEWEST)])
    rows, high = rows[fits], most[fits]
    low = np.zeros_like(high)
    while len(rows) and (high - low > 1).any():
        middle = (low + high) // 2
        tried = np.maximum(middle, 1)
        fits = spare(_with(rows, tried)) >= 0
        high, low = np.where(fits & (middle > 0), middle, high), np.where(fits, low, middle)
    return cast(Table, np.vstack([_with(rows, high), hopeless]))


def _most(question: PlanQuestion, rows: Table) -> Table:
    """All but one: all of them is full recomputation, and frameworks keep one layer of those they offload."""
    layers = -(-question.case.model.layers // rows[:, PP])
    return np.asarray(np.where(rows[:, AGAIN] == FEWEST, layers_per_chunk(question, rows), layers) - 1, dtype=np.int64)


def _with(rows: Table, count: Table) -> Table:
    found = rows.copy()
    for column in (AGAIN, AWAY):
        found[:, column] = np.where(rows[:, column] == FEWEST, count, rows[:, column])
    return found
