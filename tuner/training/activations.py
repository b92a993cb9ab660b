"""Activation memory of one layer and one micro-batch on one rank (Korthikanti et al., arXiv 2205.05198), in bytes.

Counted in 16-bit elements: inputs of two norms, of the projections, of attention and of the MLP, dropout masks, and
for unfused attention the scores three times (softmax, mask, dropout: 5 bytes). `replicated` is what tensor parallel
ranks all keep unless sequence parallelism splits it.
"""

from __future__ import annotations

import numpy as np

from tuner.training.columns import Array, Columns

_REPLICATED = 10.0  # bytes per token and hidden element: two norms 4, two GEMM inputs 4, two dropout masks 2
_SCORES = 5.0  # bytes per score


def layer_bytes(c: Columns) -> Array:
    """Held between forward and backward: everything, or the layer's input where all of it is recomputed."""
    tokens = c.micro_batch * c.seq / c.cp
    split = np.where(c.sp > 0, c.tp, 1.0)
    wide = c.element_bytes / 2.0
    kept = wide * (tokens * c.hidden * (_REPLICATED - 2.0 * (c.dropout < 1)) / split + sharded_bytes(c, tokens))
    scores = (_SCORES - 3.0 * (c.dropout < 1)) * wide * c.micro_batch * c.heads / c.tp * c.seq * c.seq / c.cp
    whole = kept + np.where((c.flash > 0) | (c.recompute > 0), 0.0, scores)
    least = 2.0 * wide * tokens * c.hidden / split
    return np.asarray(np.where(c.recompute > 2, least, np.where(c.recompute > 1, 0.5 * (least + whole), whole)))


def working_bytes(c: Columns) -> Array:
    """What one layer needs beside that while its backward runs: all of it when recomputed, scores when selective."""
    tokens = c.micro_batch * c.seq / c.cp
    split = np.where(c.sp > 0, c.tp, 1.0)
    wide = c.element_bytes / 2.0
    scores = (
        (_SCORES - 3.0 * (c.dropout < 1)) * wide * c.micro_batch * c.heads / c.tp * c.seq * c.seq / c.cp * (c.flash < 1)
    )
    whole = (
        wide * (tokens * c.hidden * (_REPLICATED - 2.0 * (c.dropout < 1)) / split + sharded_bytes(c, tokens)) + scores
    )
    return np.asarray(np.where(c.recompute > 1, whole, np.where(c.recompute > 0, scores, 0.0)))


def sharded_bytes(c: Columns, tokens: Array) -> Array:
    """The part that tensor parallelism splits: queries, keys, values, attention's output, the MLP's inner tensors."""
    query = c.heads * c.head_dim / c.tp
    keys = np.maximum(c.kv_heads / c.tp, 1.0) * c.head_dim
    attention = 4.0 * query + 4.0 * keys
    inner = np.where(c.gated > 0, 6.0, 4.0)
    share = np.where(c.layers > 0, c.moe_layers / np.maximum(c.layers, 1.0), 0.0)
    dense = inner * c.ffn / c.tp
    expert = c.top_k * (inner * c.expert_ffn + 4.0 * c.hidden * c.etp) / c.tp + inner * c.shared_ffn / c.tp
    return np.asarray(tokens * (attention + (1.0 - share) * dense + share * expert))
