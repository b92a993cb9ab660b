"""Time of one iteration from a step table, in plain Python: the contract of `step/table.py` read literally."""

from __future__ import annotations

import itertools

from tuner.serving.step.table import Floats, StepTable


def step_ms(
    table: StepTable, *, context: int, prompts: int, past: int, decodes: int, tokens_each: int, kv: int
) -> float:
    """`past` and `kv` are sums of cached tokens over the step's prompts and decodes."""
    total = 0.0
    if context > 0:
        total += interpolate([table.context_tokens], table.context_ms, [context + decodes * tokens_each])
        axes = [table.context_attention_batch, table.context_attention_new, table.context_attention_past]
        total += interpolate(axes, table.context_attention_ms, [prompts, context / prompts, past / prompts])
    elif decodes > 0:
        total += interpolate([table.decode_sequences], table.decode_ms, [decodes])
    if decodes > 0:
        axes = [table.decode_attention_sequences, table.decode_attention_kv]
        total += interpolate(axes, table.decode_attention_ms, [decodes, kv / decodes])
    return total


def interpolate(axes: list[Floats], values: Floats, point: list[float]) -> float:
    """Linear in each argument; the first value below the first knot; the last slope beyond the last."""
    corners = []
    for axis, x in zip(axes, point, strict=True):
        cell = max(0, min(sum(1 for knot in axis if knot <= x) - 1, len(axis) - 2))
        share = max(0.0, float((x - axis[cell]) / (axis[cell + 1] - axis[cell])))
        corners.append(((cell, 1.0 - share), (cell + 1, share)))
    total = 0.0
    for corner in itertools.product(*corners):
        weight = 1.0
        for _, share in corner:
            weight *= share
        total += weight * float(values[tuple(knot for knot, _ in corner)])
    return total
