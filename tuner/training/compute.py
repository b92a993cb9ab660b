"""Time of one layer and of the ends for one micro-batch on one rank: operator by operator, from shapes and rates.

A GEMM takes the longer of its operations (slower for small dimensions) and its bytes. Attention is either unfused,
which moves the scores through memory, or a flash kernel. The host launches kernels one by one: a layer whose kernels
are shorter than their launches takes as long as the launches.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from tuner.training.attention import projections, ring, score_time, swap
from tuner.training.collectives import all_reduce, span
from tuner.training.columns import Array, Columns
from tuner.training.constants import Constants
from tuner.training.experts import exchange, routed
from tuner.training.hardware import Hardware

_REPLICATED_BYTES = 22.0  # per token and hidden element forward: two layer norms, two bias-dropout-adds
_SHARDED_BYTES = 4.0  # per token and MLP element forward: the activation function, read and written
_LOSS_FORWARD = 24.0  # bytes per logit: cast to single, maximum, shift and exponential, sum, normalise
_LOSS_BACKWARD = 14.0  # the target subtracted, scaled, cast back
_LOSS_SLOTS = 12.0  # kernels of norm, output GEMM and loss in one direction


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Seconds of one layer and one micro-batch. `forward` and `backward` are what the rank is busy with in each
    direction, recomputation and tensor-parallel traffic included; `weight` is the part of backward that only makes
    weight gradients; `exposed` the collectives in both; `flops` what is computed, recomputation included."""

    forward: Array
    backward: Array
    weight: Array
    exposed: Array


def _gemm(c: Columns, h: Hardware, half: Array, m: Array, n: Array, k: Array, rate: Array | None = None) -> Array:
    small = (1.0 + half / m) * (1.0 + half / n) * (1.0 + half / k)
    rate = h.gemm if rate is None else rate
    return np.asarray(np.maximum(2.0 * m * n * k * small / rate, c.element_bytes * (m * k + k * n + m * n) / h.memory))


def layer_time(c: Columns, h: Hardware, constants: Constants) -> LayerTime:
    """One average layer: expert layers weighted by how many there are, recomputed ones, too."""
    shared = constants.shared
    half = shared["gemm_saturation"] * c.peak / c.bandwidth
    tokens = c.micro_batch * c.seq / c.cp
    projected, weights, parameters = np.zeros_like(tokens), np.zeros_like(tokens), np.zeros_like(tokens)
    for rows, columns, has in projections(c):
        projected = projected + has * _gemm(c, h, half, tokens, columns, rows)
        weights = weights + has * _gemm(c, h, half, columns, rows, tokens)
        parameters = parameters + has * rows * columns
    matrices = np.where(c.gated > 0, 3.0, 2.0)
    dense = np.where(c.layers > 0, 1.0 - c.moe_layers / np.maximum(c.layers, 1.0), 1.0)
    width = c.ffn / c.tp
    mlp_forward = dense * matrices * _gemm(c, h, half, tokens, width, c.hidden)
    mlp_weights = dense * matrices * _gemm(c, h, half, width, c.hidden, tokens)
    parameters = parameters + dense * matrices * c.hidden * width
    moved = dense * width
    route = np.zeros_like(tokens)
    if np.any(c.moe_layers > 0):
        sparse = 1.0 - dense
        to = routed(c, tokens)
        mlp_forward = mlp_forward + sparse * to.local * matrices * _gemm(c, h, half, to.rows, to.width, c.hidden)
        mlp_weights = mlp_weights + sparse * to.local * matrices * _gemm(c, h, half, to.width, c.hidden, to.rows)
        common = np.maximum(c.shared_ffn / c.tp, 1.0)
        visited = sparse * (c.shared_ffn > 0)
        mlp_forward = mlp_forward + visited * matrices * _gemm(c, h, half, tokens, common, c.hidden)
        mlp_weights = mlp_weights + visited * matrices * _gemm(c, h, half, common, c.hidden, tokens)
        parameters = parameters + sparse * matrices * c.hidden * (to.local * c.expert_ffn / c.etp + c.shared_ffn / c.tp)
        moved = moved + sparse * (c.expert_ffn * c.top_k / c.tp + c.shared_ffn / c.tp)
        route = 2.0 * sparse * exchange(c, h, to.copies, shared["collective_launch_s"])
    forward_attention, backward_attention = score_time(c, h, shared["softmax_traffic"])
    elements = c.elementwise * tokens * c.element_bytes / 2.0
    elementwise = elements * (
        c.hidden * _REPLICATED_BYTES / np.where(c.sp > 0, c.tp, 1.0) + _SHARDED_BYTES * (1.0 + c.gated / 2.0) * moved
    ) / h.memory  # fmt: skip
    if np.any(c.cp > 1):
        forward_attention, backward_attention = (
            attention + ring(c, h, sends, tokens, attention, shared["contention"])
            for attention, sends in ((forward_attention, 1.0), (backward_attention, 2.0))
        )
        route = route + swap(c, h, shared["collective_launch_s"], tokens)
    forward = projected + mlp_forward + forward_attention + elementwise
    inputs = projected + mlp_forward + backward_attention + 2.0 * elementwise
    weight = weights + mlp_weights + c.accumulate_bytes * parameters / h.memory
    whole = _tensor_parallel(c, h, shared["collective_launch_s"], tokens)
    # In chunks beside the GEMMs: the first chunk waits, and what is longer than the GEMMs.
    chunks, gemms = whole * (1.0 - 1.0 / c.tp), projected + mlp_forward
    beside = whole / c.tp + np.maximum(chunks - gemms, 0.0) + shared["contention"] * np.minimum(chunks, gemms)
    traffic = np.where(c.overlap_tp > 0, beside, whole)
    # Backward, the sum of input gradients may run beside the weight-gradient GEMMs, which do not need it.
    only = weights + mlp_weights
    late = np.maximum(whole - only, 0.0) + shared["contention"] * np.minimum(whole, only)
    behind = np.where(c.beside_weights > 0, np.minimum(late, traffic), traffic) + route
    traffic = traffic + route
    half_again = 0.5 * (gemms + traffic) + elementwise
    scores_again = np.where(c.recompute > 0, forward_attention * (c.flash < 1), 0.0)
    again = np.where(c.recompute > 2, forward + traffic, np.where(c.recompute > 1, half_again, scores_again))
    once = forward + inputs + weight + traffic + behind

    def taken(again: Array | float, passes: Array | float) -> LayerTime:
        busy = once + again
        stretch = _longer(busy, c.slots * passes * shared["launch_s"]) / busy
        return LayerTime(
            (forward + traffic) * stretch,
            (inputs + weight + again + behind) * stretch,
            weight * stretch,
            (passes - 2.0) * traffic + behind,
        )

    every = taken(again, np.where(c.recompute > 2, 4.0, 3.0))
    share = c.recomputed / np.maximum(c.most, 1.0)
    return every if np.all(share >= 1.0) else _mixed(every, taken(0.0, 3.0), np.minimum(share, 1.0))


def _mixed(every: LayerTime, none: LayerTime, share: Array) -> LayerTime:
    parts = (share * getattr(every, item.name) + (1.0 - share) * getattr(none, item.name) for item in fields(LayerTime))
    return LayerTime(*parts)


def _longer(busy: Array, host: Array | float) -> Array:
    """Fourth-power mean of device and host time: the longer of the two, a little more where they are alike."""
    return np.asarray(np.sqrt(np.sqrt(np.square(np.square(busy)) + np.square(np.square(host)))))


def _tensor_parallel(c: Columns, h: Hardware, start_s: float, tokens: Array) -> Array:
    """Two all-reduces (or gather and scatter pairs) of one direction of one layer."""
    group = span(c.tp, np.ones_like(c.tp), c.per_node, h.intra, h.node)
    volume = c.element_bytes * tokens * c.hidden
    return np.asarray((c.tp > 1) * 2.0 * (all_reduce(volume, c.tp, group.rate) + start_s))


def output_time(c: Columns, h: Hardware, constants: Constants, shards: Array) -> tuple[Array, Array]:
    """Forward and backward of the output layer and its loss on one of `shards` ranks of the vocabulary."""
    half = constants.shared["gemm_saturation"] * c.wide_peak / c.bandwidth
    tokens = c.micro_batch * c.seq / c.cp
    width = c.vocab / shards
    once = _gemm(c, h, half, tokens, width, c.hidden, h.wide_gemm)
    weight = _gemm(c, h, half, width, c.hidden, tokens, h.wide_gemm)
    logits = tokens * width / h.memory
    norm = 4.0 * tokens * c.hidden / h.memory
    floor = _LOSS_SLOTS * constants.shared["launch_s"]
    forward = _longer(once + _LOSS_FORWARD * logits + norm, floor)
    return forward, _longer(once + weight + _LOSS_BACKWARD * logits + 2.0 * norm, floor)
