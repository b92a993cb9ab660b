"""Values between a step table's knots, for whole arrays at once (the table's own rule: linear in each argument)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tuner.serving.step.table import Floats, StepTable


def line(axis: Floats, values: Floats, at: ArrayLike) -> Floats:
    """Values of a one-dimensional grid."""
    index, share = _cell(axis, np.asarray(at, dtype=float))
    return values[index] + share * (values[index + 1] - values[index])


def context_ms(table: StepTable, tokens: ArrayLike) -> Floats:
    """Everything but attention of an iteration with context tokens."""
    return line(table.context_tokens, table.context_ms, tokens)


def decode_step_ms(table: StepTable, sequences: ArrayLike, kv: ArrayLike) -> Floats:
    """A pure decode iteration with attention over `kv` tokens each."""
    shared = line(table.decode_sequences, table.decode_ms, sequences)
    i, u = _cell(table.decode_attention_sequences, np.asarray(sequences, dtype=float))
    j, v = _cell(table.decode_attention_kv, np.asarray(kv, dtype=float))
    grid = table.decode_attention_ms
    low = grid[i, j] + v * (grid[i, j + 1] - grid[i, j])
    high = grid[i + 1, j] + v * (grid[i + 1, j + 1] - grid[i + 1, j])
    out: Floats = shared + low + u * (high - low)
    return out


def context_attention_ms(table: StepTable, batch: float, new: ArrayLike, past: ArrayLike) -> Floats:
    """Attention of `batch` prompts with `new` tokens each after `past` tokens."""
    axis = table.context_attention_batch
    index, share = _cell(axis, np.asarray(float(batch)))
    low = _plane(table, table.context_attention_ms[int(index)], new, past)
    high = _plane(table, table.context_attention_ms[int(index) + 1], new, past)
    return low + float(share) * (high - low)


def prefill_ms(table: StepTable, tokens: int, budget: int, cached: int = 0) -> float:
    """One prompt alone, in chunks of the token budget, `cached` leading tokens found in the prefix cache."""
    starts = np.arange(cached, max(tokens, cached + 1), budget, dtype=float)
    new = np.minimum(budget, max(tokens, cached + 1) - starts)
    return float((context_ms(table, new) + context_attention_ms(table, 1, new, starts)).sum())


def _plane(table: StepTable, grid: Floats, new: ArrayLike, past: ArrayLike) -> Floats:
    i, u = _cell(table.context_attention_new, np.asarray(new, dtype=float))
    j, v = _cell(table.context_attention_past, np.asarray(past, dtype=float))
    low = grid[i, j] + v * (grid[i, j + 1] - grid[i, j])
    high = grid[i + 1, j] + v * (grid[i + 1, j + 1] - grid[i + 1, j])
    out: Floats = low + u * (high - low)
    return out


def _cell(axis: Floats, at: Floats) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.intp]], Floats]:
    """Left knot of each value's cell and the share of the cell passed: 0 below the first knot, above 1 past the last."""
    index = np.clip(np.searchsorted(axis, at, side="right") - 1, 0, len(axis) - 2)
    share = np.maximum((at - axis[index]) / (axis[index + 1] - axis[index]), 0.0)
    return index, share
