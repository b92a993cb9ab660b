"""Time of one layer and of the ends for one micro-batch on one rank: operator by operator, from shapes and rates.

A GEMM takes the longer of its operations (slower for small dimensions) and its bytes. Attention is either unfused,
which moves the scores through memory, or a flash kernel. The host launches kernels one by one: a layer whose kernels
are shorter than their launches takes as long as the launches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.training.collectives import all_reduce, all_to_all, span
from tuner.training.columns import Array, Columns
from tuner.training.constants import Constants
from tuner.training.hardware import Hardware

_SCORES_FORWARD = 13.0  # bytes per score and pass forward: written, masked, normalised, dropped out, read
_SCORES_BACKWARD = 17.0
_REPLICATED_BYTES = 22.0  # per token and hidden element forward: two layer norms, two bias-dropout-adds
_SHARDED_BYTES = 4.0  # per token and MLP element forward: the activation function, read and written
_UNFUSED_GEMM = 0.6  # batched score GEMMs against large ones: short inner dimension
_LOSS_FORWARD = 24.0  # bytes per logit: cast to single, maximum, shift and exponential, sum, normalise
_LOSS_BACKWARD = 14.0  # the target subtracted, scaled, cast back
_LOSS_SLOTS = 12.0  # kernels of norm, output GEMM and loss in one direction
_FLASH_BACKWARD = 2.5  # five matrix products instead of two


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Seconds of one layer and one micro-batch. `forward` and `backward` are what the rank is busy with in each
    direction, recomputation and tensor-parallel traffic included; `weight` is the part of backward that only makes
    weight gradients; `exposed` the collectives in both; `flops` what is computed, recomputation included."""

    forward: Array
    backward: Array
    weight: Array
    exposed: Array


def _gemm(c: Columns, h: Hardware, half: Array, m: Array, n: Array, k: Array) -> Array:
    small = (1.0 + half / m) * (1.0 + half / n) * (1.0 + half / k)
    return np.asarray(
        np.maximum(2.0 * m * n * k * small / h.gemm, c.element_bytes * (m * k + k * n + m * n) / h.memory)
    )


def layer_time(c: Columns, h: Hardware, constants: Constants) -> LayerTime:
    """One average layer: expert layers weighted by how many there are."""
    shared = constants.shared
    half = shared["gemm_saturation"] * c.peak / c.bandwidth
    tokens = c.micro_batch * c.seq / c.cp
    query = c.heads * c.head_dim / c.tp
    keys = np.maximum(c.kv_heads / c.tp, 1.0) * c.head_dim
    packed = query + 2.0 * keys
    projections = _gemm(c, h, half, tokens, packed, c.hidden) + _gemm(c, h, half, tokens, c.hidden, query)
    weights = _gemm(c, h, half, packed, c.hidden, tokens) + _gemm(c, h, half, c.hidden, query, tokens)
    matrices = np.where(c.gated > 0, 3.0, 2.0)
    parameters = c.hidden * (packed + query)
    dense = np.where(c.layers > 0, 1.0 - c.moe_layers / np.maximum(c.layers, 1.0), 1.0)
    width = c.ffn / c.tp
    mlp_forward = dense * matrices * _gemm(c, h, half, tokens, width, c.hidden)
    mlp_weights = dense * matrices * _gemm(c, h, half, width, c.hidden, tokens)
    parameters = parameters + dense * matrices * c.hidden * width
    moved = dense * width
    route = np.zeros_like(tokens)
    if np.any(c.moe_layers > 0):
        sparse = 1.0 - dense
        local = np.maximum(c.experts / c.ep, 1.0)
        routed = np.maximum(tokens * c.etp / c.tp * np.maximum(c.top_k, 1.0), 1.0)
        each = np.maximum(routed / local, 1.0)
        wide = np.maximum(c.expert_ffn / c.etp, 1.0)
        mlp_forward = mlp_forward + sparse * local * matrices * _gemm(c, h, half, each, wide, c.hidden)
        mlp_weights = mlp_weights + sparse * local * matrices * _gemm(c, h, half, wide, c.hidden, each)
        common = np.maximum(c.shared_ffn / c.tp, 1.0)
        visited = sparse * (c.shared_ffn > 0)
        mlp_forward = mlp_forward + visited * matrices * _gemm(c, h, half, tokens, common, c.hidden)
        mlp_weights = mlp_weights + visited * matrices * _gemm(c, h, half, common, c.hidden, tokens)
        parameters = parameters + sparse * matrices * c.hidden * (local * c.expert_ffn / c.etp + c.shared_ffn / c.tp)
        moved = moved + sparse * (c.expert_ffn * c.top_k / c.tp + c.shared_ffn / c.tp)
        group = span(c.ep, np.ones_like(c.tp), c.per_node, h.intra, h.node)
        volume = c.element_bytes * routed * c.hidden
        route = 2.0 * sparse * (c.ep > 1) * all_to_all(volume, c.ep, group.rate, 0.0)
        route = route + 2.0 * sparse * (c.ep > 1) * shared["collective_launch_s"]
    forward_attention, backward_attention = _attention(c, h, shared["softmax_traffic"])
    elements = c.elementwise * tokens * c.element_bytes / 2.0
    elementwise = elements * (
        c.hidden * _REPLICATED_BYTES / np.where(c.sp > 0, c.tp, 1.0) + _SHARDED_BYTES * (1.0 + c.gated / 2.0) * moved
    ) / h.memory  # fmt: skip
    if np.any(c.cp > 1):
        forward_attention, backward_attention = (
            attention + _ring(c, h, sends * c.element_bytes * tokens * 2.0 * keys, attention, shared["contention"])
            for attention, sends in ((forward_attention, 1.0), (backward_attention, 2.0))
        )
    forward = projections + mlp_forward + forward_attention + elementwise
    inputs = projections + mlp_forward + backward_attention + 2.0 * elementwise
    weight = weights + mlp_weights + c.accumulate_bytes * parameters / h.memory
    whole = _tensor_parallel(c, h, shared["collective_launch_s"], tokens)
    # In chunks beside the GEMMs: the first chunk waits, and what is longer than the GEMMs.
    chunks, gemms = whole * (1.0 - 1.0 / c.tp), projections + mlp_forward
    beside = whole / c.tp + np.maximum(chunks - gemms, 0.0) + shared["contention"] * np.minimum(chunks, gemms)
    traffic = np.where(c.overlap_tp > 0, beside, whole) + route
    half_again = 0.5 * (projections + mlp_forward + traffic) + elementwise
    scores_again = np.where(c.recompute > 0, forward_attention * (c.flash < 1), 0.0)
    again = np.where(c.recompute > 2, forward + traffic, np.where(c.recompute > 1, half_again, scores_again))
    busy = 2.0 * traffic + forward + inputs + weight + again
    slots = c.slots * (3.0 + (c.recompute > 2)) * shared["launch_s"]
    stretch = _longer(busy, slots) / busy
    return LayerTime(
        (forward + traffic) * stretch,
        (inputs + weight + again + traffic) * stretch,
        weight * stretch,
        (2.0 + (c.recompute > 2)) * traffic,
    )


def _longer(busy: Array, host: Array | float) -> Array:
    """Fourth-power mean of device and host time: the longer of the two, a little more where they are alike."""
    return np.asarray(np.sqrt(np.sqrt(np.square(np.square(busy)) + np.square(np.square(host)))))


def _attention(c: Columns, h: Hardware, softmax_traffic: float) -> tuple[Array, Array]:
    heads = c.heads / c.tp
    scores = c.micro_batch * heads * c.seq * c.seq / c.cp
    products = 4.0 * scores * c.head_dim
    moved = scores * softmax_traffic * c.element_bytes / 2.0 / h.memory
    plain = products / (_UNFUSED_GEMM * h.gemm)
    flash = 0.5 * products / h.attention
    fused = c.flash > 0
    forward = np.where(fused, flash, plain + _SCORES_FORWARD * moved)
    backward = np.where(fused, _FLASH_BACKWARD * flash, 2.0 * plain + _SCORES_BACKWARD * moved)
    return forward, backward


def _ring(c: Columns, h: Hardware, size: Array, attention: Array, contention: float) -> Array:
    """What context parallelism's exchange of keys and values (gradients, too, backward) adds to attention: what is
    longer than the attention it hides behind, and the work it slows meanwhile."""
    group = span(c.cp, c.tp, c.per_node, h.intra, h.node)
    traffic = (c.cp - 1.0) * size / group.rate
    return np.maximum(traffic - attention, 0.0) + contention * np.minimum(traffic, attention)


def _tensor_parallel(c: Columns, h: Hardware, start_s: float, tokens: Array) -> Array:
    """Two all-reduces (or gather and scatter pairs) of one direction of one layer."""
    group = span(c.tp, np.ones_like(c.tp), c.per_node, h.intra, h.node)
    volume = c.element_bytes * tokens * c.hidden
    return np.asarray((c.tp > 1) * 2.0 * (all_reduce(volume, c.tp, group.rate) + start_s))


def output_time(c: Columns, h: Hardware, constants: Constants, shards: Array) -> tuple[Array, Array]:
    """Forward and backward of the output layer and its loss on one of `shards` ranks of the vocabulary."""
    half = constants.shared["gemm_saturation"] * c.peak / c.bandwidth
    tokens = c.micro_batch * c.seq / c.cp
    width = c.vocab / shards
    once = _gemm(c, h, half, tokens, width, c.hidden)
    weight = _gemm(c, h, half, width, c.hidden, tokens)
    logits = tokens * width / h.memory
    norm = 4.0 * tokens * c.hidden / h.memory
    floor = _LOSS_SLOTS * constants.shared["launch_s"]
    forward = _longer(once + _LOSS_FORWARD * logits + norm, floor)
    return forward, _longer(once + weight + _LOSS_BACKWARD * logits + 2.0 * norm, floor)
