"""Reading a step table at any shape: plain interpolation, for checks and static estimates, not for the replay loop."""

from __future__ import annotations

import numpy as np

from tuner.serving.step.table import Floats, StepTable


def decode_step_ms(table: StepTable, sequences: float, kv: float) -> float:
    """A pure decode iteration of `sequences` with `kv` tokens each in the cache."""
    axes = (table.decode_attention_sequences, table.decode_attention_kv)
    return at((table.decode_sequences,), table.decode_ms, (sequences,)) + at(
        axes, table.decode_attention_ms, (sequences, kv)
    )


def context_step_ms(
    table: StepTable, prompts: float, new: float, past: float, sequences: float = 0.0, kv: float = 0.0
) -> float:
    """An iteration with `prompts` prompts of `new` tokens after `past`, beside `sequences` decodes."""
    axes = (table.context_attention_batch, table.context_attention_new, table.context_attention_past)
    tokens = prompts * new + sequences * (1 + table.draft_tokens)
    total = at((table.context_tokens,), table.context_ms, (tokens,))
    total += at(axes, table.context_attention_ms, (prompts, new, past))
    if sequences > 0:
        decode_axes = (table.decode_attention_sequences, table.decode_attention_kv)
        total += at(decode_axes, table.decode_attention_ms, (sequences, kv))
    return total


def at(axes: tuple[Floats, ...], grid: Floats, point: tuple[float, ...]) -> float:
    """Multilinear value; below the first knot the first value, above the last the last slope goes on."""
    values = grid
    for axis, x in zip(axes, point, strict=True):
        i = min(max(int(np.searchsorted(axis, x, side="right")) - 1, 0), len(axis) - 2)
        share = max((x - axis[i]) / (axis[i + 1] - axis[i]), 0.0)
        values = values[i] * (1.0 - share) + values[i + 1] * share
    return float(values)
