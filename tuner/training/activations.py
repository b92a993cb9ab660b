"""Activation memory of one layer and one micro-batch on one rank (Korthikanti et al., arXiv 2205.05198), in bytes.

Counted in 16-bit elements: inputs of two norms, of the projections, of attention and of the MLP, dropout masks, and
for unfused attention the scores three times (softmax, mask, dropout: 5 bytes). `replicated` is what tensor parallel
ranks all keep unless sequence parallelism splits it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.training.attention import kept_elements
from tuner.training.columns import Array, Columns

_REPLICATED = 10.0  # bytes per token and hidden element: two norms 4, two GEMM inputs 4, two dropout masks 2
_SCORES = 5.0  # bytes per score


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of one layer and micro-batch on one rank. `kept`: between forward and backward where `recompute` is about
    the layer, everything or its input alone; `plain`: where nothing is recomputed; `working`: beside them while the
    layer's backward runs, all of it when recomputed, scores when selective."""

    kept: Array
    plain: Array
    working: Array


def held(c: Columns) -> Held:
    """All three, which share most of their terms."""
    whole, least = _whole(c)
    scores = np.where(c.flash > 0, 0.0, _score_bytes(c))
    plain = whole + scores
    kept = np.where(c.recompute > 0, whole, plain)
    kept = np.where(c.recompute > 2, least, np.where(c.recompute > 1, 0.5 * (least + whole), kept))
    working = np.where(c.recompute > 1, plain, np.where(c.recompute > 0, scores, 0.0))
    return Held(np.asarray(kept), plain, np.asarray(working))


def plain_bytes(c: Columns) -> Array:
    """`held(c).plain`."""
    return held(c).plain


def _whole(c: Columns) -> tuple[Array, Array]:
    """What a layer keeps without scores, and its input alone."""
    tokens = c.micro_batch * c.seq / c.cp
    split = np.where(c.sp > 0, c.tp, 1.0)
    wide = c.element_bytes / 2.0
    inputs = tokens * c.hidden / split
    return wide * (inputs * (_REPLICATED - 2.0 * (c.dropout < 1)) + sharded_bytes(c, tokens)), 2.0 * wide * inputs


def _score_bytes(c: Columns) -> Array:
    each = (_SCORES - 3.0 * (c.dropout < 1)) * c.element_bytes / 2.0
    return np.asarray(each * c.micro_batch * c.heads / c.tp * c.seq * c.seq / c.cp)


def sharded_bytes(c: Columns, tokens: Array) -> Array:
    """The part that tensor parallelism splits: queries, keys, values, attention's output, the MLP's inner tensors."""
    inner = np.where(c.gated > 0, 6.0, 4.0)
    share = np.where(c.layers > 0, c.moe_layers / np.maximum(c.layers, 1.0), 0.0)
    dense = inner * c.ffn / c.tp
    expert = c.top_k * (inner * c.expert_ffn + 4.0 * c.hidden * c.etp) / c.tp + inner * c.shared_ffn / c.tp
    return np.asarray(tokens * (kept_elements(c) + (1.0 - share) * dense + share * expert))
