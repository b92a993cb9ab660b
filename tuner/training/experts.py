"""Expert layers of one micro-batch on one rank: routed and shared matrices, and the all-to-all that brings tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.training.columns import Array, Columns
from tuner.training.hardware import Hardware


@dataclass(frozen=True, slots=True)
class Routed:
    """`rows` tokens for each of `local` experts of width `width`; `copies`: token copies that this rank sends."""

    rows: Array
    local: Array
    width: Array
    copies: Array


def routed(c: Columns, tokens: Array) -> Routed:
    """How a rank's tokens meet its experts, evenly spread."""
    local = np.maximum(c.experts / c.ep, 1.0)
    copies = np.maximum(tokens * c.etp / c.tp * np.maximum(c.top_k, 1.0), 1.0)
    return Routed(np.maximum(copies / local, 1.0), local, np.maximum(c.expert_ffn / c.etp, 1.0), copies)


def exchange(c: Columns, h: Hardware, copies: Array, start_s: float) -> Array:
    """One dispatch or combine: the longer of what stays in the node and what leaves it, where a rank has its share of
    the NICs. With `route_nodes` a token crosses once per node that has experts of its (DeepSeek-V3, arXiv 2412.19437).
    """
    inside = np.clip(np.floor(c.per_node / c.etp), 1.0, c.ep)
    nodes = c.ep / inside
    volume = c.element_bytes * copies * c.hidden
    near = volume * (inside - 1.0) / c.ep
    crossing = np.minimum(np.where(c.route_nodes > 0, c.route_nodes / np.maximum(c.top_k, 1.0), 1.0), 1.0)
    far = volume * crossing * (1.0 - 1.0 / nodes)
    share = np.minimum(h.intra, h.node / c.per_node)
    # What arrives once per node still fans out inside it.
    near = np.where(crossing < 1.0, volume * (inside - 1.0) / inside, near)
    return np.where(c.ep > 1, np.maximum(near / h.intra, far / share) + start_s, 0.0)
