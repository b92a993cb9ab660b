"""Attention of one layer and one micro-batch on one rank: its matrices, its score products, its context parallelism.

Plain, grouped and latent attention. Context parallel ranks pass keys and values around a ring, hidden behind the
products, or swap tokens for heads by all-to-all before and after (Ulysses, arXiv 2309.14509).
"""

from __future__ import annotations

import numpy as np

from tuner.training.collectives import all_to_all, span
from tuner.training.columns import Array, Columns
from tuner.training.hardware import Hardware

_SCORES_FORWARD = 13.0  # bytes per score and pass forward: written, masked, normalised, dropped out, read
_SCORES_BACKWARD = 17.0
_UNFUSED_GEMM = 0.6  # batched score GEMMs against large ones: short inner dimension
_FLASH_BACKWARD = 2.5  # five matrix products instead of two


def projections(c: Columns) -> list[tuple[Array, Array, Array | float]]:
    """Matrices of a layer's attention on one rank: inputs, outputs, and whether the layer has them (latent or not).

    Latent attention compresses queries and keys with values on every tensor parallel rank alike, and expands its heads.
    """
    query = c.heads * c.head_dim / c.tp
    keys = np.maximum(c.kv_heads / c.tp, 1.0) * c.head_dim
    plain = (c.kv_rank < 1).astype(np.float64) if np.any(c.kv_rank > 0) else 1.0
    found: list[tuple[Array, Array, Array | float]] = [
        (c.hidden, query + 2.0 * keys, plain),
        (query, c.hidden, plain),
    ]
    if np.any(c.kv_rank > 0):
        latent, squeezed = c.kv_rank > 0, (c.kv_rank > 0) & (c.q_rank > 0)
        one = np.ones_like(query)
        found += [
            (c.hidden, np.maximum(c.q_rank, one), squeezed.astype(np.float64)),
            (np.where(squeezed, np.maximum(c.q_rank, one), c.hidden), query, latent.astype(np.float64)),
            (c.hidden, np.maximum(c.kv_rank + c.rope_dim, one), latent.astype(np.float64)),
            (np.maximum(c.kv_rank, one), _expanded(c), latent.astype(np.float64)),
            (c.heads * c.value_dim / c.tp, c.hidden, latent.astype(np.float64)),
        ]
    return found


def parameters(c: Columns) -> Array:
    """Parameters of a layer's attention on one rank."""
    if not np.any(c.kv_rank > 0):
        return np.asarray(2.0 * c.hidden * c.head_dim * (c.heads + np.maximum(c.kv_heads, c.tp)) / c.tp)
    return np.asarray(sum(has * rows * columns for rows, columns, has in projections(c)))


def kept_elements(c: Columns) -> Array:
    """Bytes per token of 16-bit queries, keys, values and output that backward needs, on one rank."""
    query = c.heads * c.head_dim / c.tp
    keys = np.maximum(c.kv_heads / c.tp, 1.0) * c.head_dim
    plain = 4.0 * query + 4.0 * keys
    if not np.any(c.kv_rank > 0):
        return plain
    latent = 4.0 * query + 4.0 * c.heads * c.value_dim / c.tp + 2.0 * (c.q_rank + c.kv_rank + c.rope_dim)
    return np.asarray(np.where(c.kv_rank > 0, latent, plain))


def score_time(c: Columns, h: Hardware, softmax_traffic: float) -> tuple[Array, Array]:
    """Forward and backward of the products with the scores."""
    heads = c.heads / c.tp
    scores = c.micro_batch * heads * c.seq * c.seq / c.cp
    products = 2.0 * scores * (c.head_dim + c.value_dim)
    moved = scores * softmax_traffic * c.element_bytes / 2.0 / h.memory
    plain = products / (_UNFUSED_GEMM * h.wide_gemm)
    flash = 0.5 * products / h.attention
    fused = c.flash > 0
    forward = np.where(fused, flash, plain + _SCORES_FORWARD * moved)
    backward = np.where(fused, _FLASH_BACKWARD * flash, 2.0 * plain + _SCORES_BACKWARD * moved)
    return forward, backward


def ring(c: Columns, h: Hardware, sends: float, tokens: Array, attention: Array, contention: float) -> Array:
    """What the exchange of keys and values (gradients, too, backward: `sends` 2) adds to attention: what is longer
    than the attention it hides behind, and the work it slows meanwhile. Nothing with Ulysses."""
    group = span(c.cp, c.tp, c.per_node, h.intra, h.node)
    traffic = (c.cp - 1.0) * sends * c.element_bytes * tokens * _keys_and_values(c) / group.rate
    late = np.maximum(traffic - attention, 0.0) + contention * np.minimum(traffic, attention)
    return np.where(c.cp_mode > 0, 0.0, late)


def swap(c: Columns, h: Hardware, start_s: float, tokens: Array) -> Array:
    """Ulysses in one direction of one layer: queries, keys and values to their heads, the output back. Nothing hides
    it."""
    group = span(c.cp, c.tp, c.per_node, h.intra, h.node)
    # Every rank sends to all others at once, so those of a node share its NICs.
    rate = np.where(group.crosses, np.minimum(h.intra, h.node / c.per_node), h.intra)
    output = c.heads * c.value_dim / c.tp
    volume = c.element_bytes * tokens * (c.heads * c.head_dim / c.tp + _keys_and_values(c) + output)
    return np.where((c.cp > 1) & (c.cp_mode > 0), all_to_all(volume, c.cp, rate) + 2.0 * start_s, 0.0)


def _keys_and_values(c: Columns) -> Array:
    grouped = 2.0 * np.maximum(c.kv_heads / c.tp, 1.0) * c.head_dim
    if not np.any(c.kv_rank > 0):
        return grouped
    return np.asarray(np.where(c.kv_rank > 0, c.heads * (c.head_dim + c.value_dim) / c.tp, grouped))


def _expanded(c: Columns) -> Array:
    return np.asarray(c.heads * (c.head_dim - c.rope_dim + c.value_dim) / c.tp)
