"""Joins compute, collectives and schedule into one iteration, for columns of configurations with one pool each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.training.collectives import all_reduce, point_to_point, reduce_scatter, span
from tuner.training.columns import Array, Columns
from tuner.training.compute import LayerTime, layer_time, output_time
from tuner.training.constants import Constants
from tuner.training.hardware import Hardware, hardware
from tuner.training.schedules import pipeline_time

_OPTIMIZER_BYTES = 28.0  # per parameter and step: gradient, master weight and two moments read, three of them written


@dataclass(frozen=True, slots=True)
class Iteration:
    """Seconds. `exposed_comm_s`: collectives and transfers that nothing hides; `bubble`: idle share of the slowest
    stage's devices."""

    seconds: Array
    bubble: Array
    exposed_comm_s: Array


@dataclass(frozen=True, slots=True)
class Stages:
    """Per micro-batch: one layer, the two ends, one hop; per iteration: gradients, optimizer."""

    layer: LayerTime
    output_forward: Array
    output_backward: Array
    embedding: Array
    hop: Array
    gradients: Array
    optimizer: Array


def stage_parts(c: Columns, constants: Constants) -> Stages:
    """What stages are made of."""
    h = hardware(c, constants)
    layer = layer_time(c, h, constants)
    shards = c.tp * np.where(c.vocab_parallel > 0, c.pp, 1.0)
    output_forward, output_backward = output_time(c, h, constants, shards)
    tokens = c.micro_batch * c.seq / c.cp
    embedding = 12.0 * tokens * c.hidden / h.memory
    if np.any(c.zero > 2):
        layer = _gathered(c, h, layer, constants.shared["contention"])
    parameters = stage_parameters(c)
    gradients = _gradients(c, h, layer, parameters, constants.shared["contention"])
    optimizer = _OPTIMIZER_BYTES * parameters / np.where(c.zero > 0, c.dp * c.cp, 1.0) / h.memory
    return Stages(
        layer, output_forward, output_backward, embedding, _hop(c, h, constants, tokens), gradients, optimizer
    )


def iteration(c: Columns, constants: Constants) -> Iteration:
    """Iterations with stages as even as they go, in closed form."""
    parts = stage_parts(c, constants)
    per_layer = parts.layer.forward + parts.layer.backward
    output = parts.output_forward + parts.output_backward
    shared = (c.vocab_parallel > 0) & (c.pp > 1)
    common = np.where(shared, output + parts.embedding / c.pp, 0.0)
    alone = np.where(shared, 0.0, output)
    entry = np.where(shared, 0.0, parts.embedding)
    last = c.last * per_layer + common + alone + np.where(c.pp == 1, entry, 0.0)
    slowest = np.maximum(np.maximum(c.first * per_layer + entry, c.most * per_layer) + common, last)
    slowest = np.where(c.pp == 1, last, slowest)
    total = c.layers * per_layer + c.pp * common + alone + entry
    weight = c.most * parts.layer.weight
    busy = pipeline_time(c.schedule, c.pp, c.micro_batches, c.vpp, total, slowest, weight, parts.hop, c.overlap_pp)
    seconds = busy + parts.gradients + parts.optimizer
    work = c.micro_batches * total / c.pp
    exposed = (
        c.micro_batches * c.most * parts.layer.exposed
        + 2.0 * (c.micro_batches * (c.overlap_pp < 1) * c.vpp + c.pp - 1.0) * parts.hop * (c.pp > 1)
        + parts.gradients
    )
    return Iteration(seconds, np.clip(1.0 - work / busy, 0.0, 1.0), exposed)


def stage_parameters(c: Columns) -> Array:
    """Parameters on the fullest rank of an end stage: its layers and one vocabulary matrix."""
    matrices = np.where(c.gated > 0, 3.0, 2.0)
    attention = 2.0 * c.hidden * c.head_dim * (c.heads + np.maximum(c.kv_heads, c.tp)) / c.tp
    share = c.moe_layers / np.maximum(c.layers, 1.0)
    experts = c.experts * c.expert_ffn / (c.ep * c.etp) + c.shared_ffn / c.tp
    mlp = matrices * c.hidden * ((1.0 - share) * c.ffn / c.tp + share * experts)
    shards = c.tp * np.where(c.vocab_parallel > 0, c.pp, 1.0)
    ends = np.where((c.tied < 1) & (c.pp == 1), 2.0, 1.0)
    return np.asarray(np.maximum(c.first, c.last) * (attention + mlp) + ends * c.vocab * c.hidden / shards)


def _hop(c: Columns, h: Hardware, constants: Constants, tokens: Array) -> Array:
    """One boundary tensor to the next stage; every tensor-parallel rank sends its share."""
    stride = c.tp * c.cp * c.dp
    crosses = stride * c.pp > c.per_node
    rate = np.where(crosses, np.minimum(h.intra, h.node / np.minimum(stride, c.per_node)), h.intra)
    volume = c.element_bytes * tokens * c.hidden / c.tp
    return np.where(c.pp > 1, point_to_point(volume, rate, constants.shared["p2p_sync_s"] * c.handovers), 0.0)


def _gradients(c: Columns, h: Hardware, layer: LayerTime, parameters: Array, contention: float) -> Array:
    """Exposed data-parallel traffic at the end of an iteration, and the tied embedding's between the end stages."""
    ranks = c.dp * c.cp
    group = span(ranks, c.tp, c.per_node, h.intra, h.node)
    reduce = reduce_scatter(c.gradient_bytes * parameters, ranks, group.rate)
    gather = reduce_scatter(c.element_bytes * parameters, ranks, group.rate)
    window = c.most * layer.backward
    full = np.where(c.zero > 0, reduce + gather, all_reduce(c.gradient_bytes * parameters, ranks, group.rate))
    hidden = _exposed(reduce, window, contention) + _exposed(gather, window / 2.0, contention)
    traffic = np.where(c.overlap_dp > 0, hidden, full)
    traffic = np.where((ranks > 1) & (c.zero < 3), traffic, 0.0)
    stride = c.tp * c.cp * c.dp
    ends = span(np.where(c.pp > 1, 2.0, 1.0), stride, c.per_node, h.intra, h.node)
    tied = (c.tied > 0) & (c.pp > 1) & (c.vocab_parallel < 1)
    size = c.gradient_bytes * c.vocab * c.hidden / c.tp
    return np.asarray(traffic + np.where(tied, all_reduce(size, 2.0, ends.rate), 0.0))


def _exposed(traffic: Array, window: Array, contention: float) -> Array:
    """What traffic behind `window` seconds of work still costs: the excess, and the work it slows meanwhile."""
    return np.asarray(np.maximum(traffic - window, 0.0) + contention * np.minimum(traffic, window))


def _gathered(c: Columns, h: Hardware, layer: LayerTime, contention: float) -> LayerTime:
    """Sharded parameters: each layer is gathered before forward and backward, its gradients scattered after."""
    sharded = c.zero > 2
    ranks = c.dp * c.cp
    group = span(ranks, c.tp, c.per_node, h.intra, h.node)
    embedding = c.vocab * c.hidden / c.tp
    size = (stage_parameters(c) - embedding) / c.layers
    gather = reduce_scatter(c.element_bytes * size, ranks, group.rate)
    scatter = reduce_scatter(c.gradient_bytes * size, ranks, group.rate)
    forward = np.where(sharded, layer.forward + _exposed(gather, layer.forward, contention), layer.forward)
    backward = np.where(
        sharded, layer.backward + _exposed(gather + scatter, layer.backward, contention), layer.backward
    )
    late = forward + backward - layer.forward - layer.backward
    return LayerTime(forward, backward, layer.weight, layer.exposed + late)
