"""Joins compute, collectives and schedule into one iteration, for columns of configurations with one pool each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.training.collectives import all_reduce, point_to_point, span
from tuner.training.columns import FOLDED_CODE, Array, Columns
from tuner.training.compute import LayerTime, layer_time, output_time
from tuner.training.constants import Constants
from tuner.training.hardware import Hardware, hardware
from tuner.training.offload import optimizer_time, with_activations
from tuner.training.schedules import pipeline_time
from tuner.training.sharding import gathered, parts_of, reduced
from tuner.training.transfers import boundary_bytes, link_seconds, stage_rate


@dataclass(frozen=True, slots=True)
class Iteration:
    """Seconds. `exposed_comm_s`: collectives and transfers that nothing hides; `bubble`: idle share of the slowest
    stage's devices; `computing_s`: a device computes on average, its optimizer included."""

    seconds: Array
    bubble: Array
    exposed_comm_s: Array
    computing_s: Array


@dataclass(frozen=True, slots=True)
class Stages:
    """Per micro-batch: one layer, the two ends, one hop, what transfers keep the busiest link occupied for; per
    iteration: gradients, optimizer."""

    layer: LayerTime
    output_forward: Array
    output_backward: Array
    embedding: Array
    hop: Array
    link: Array
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
    shared, held = constants.shared["contention"], parts_of(c)
    layer = with_activations(c, gathered(c, h, layer, shared, held))
    gradients = reduced(c, h, layer, shared, held) + _tied_ends(c, h)
    return Stages(
        layer, output_forward, output_backward, embedding, _hop(c, h, constants), link_seconds(c, h.intra, h.node),
        gradients, optimizer_time(c, h, held),
    )  # fmt: skip


def iteration(c: Columns, constants: Constants) -> Iteration:
    """Iterations with stages as even as they go, in closed form."""
    parts = stage_parts(c, constants)
    per_layer = parts.layer.forward + parts.layer.backward
    output = parts.output_forward + parts.output_backward
    shared = (c.vocab_parallel > 0) & (c.pp > 1)
    common = np.where(shared, output + parts.embedding / c.pp, 0.0)
    alone = np.where(shared, 0.0, output)
    entry = np.where(shared, 0.0, parts.embedding)
    folded = c.schedule >= FOLDED_CODE  # both ends on the first stage
    both = (c.pp == 1) | folded
    last = c.last * per_layer + common + np.where(folded, 0.0, alone) + np.where(c.pp == 1, entry, 0.0)
    front = c.first * per_layer + entry + np.where(both, alone, 0.0)
    slowest = np.maximum(np.maximum(front, c.most * per_layer) + common, last)
    slowest = np.where(c.pp == 1, last, slowest)
    total = c.layers * per_layer + c.pp * common + alone + entry
    weight = c.most * parts.layer.weight
    passes = c.most * parts.layer.forward, c.most * (parts.layer.backward - parts.layer.weight)
    busy = pipeline_time(
        c.schedule, c.pp, c.micro_batches, c.vpp, total, slowest, weight, parts.hop, c.overlap_pp, passes,
        parts.link,
    )  # fmt: skip
    seconds = busy + parts.gradients + parts.optimizer
    work = c.micro_batches * total / c.pp
    moved = np.where(
        c.overlap_pp < 1, 2.0 * c.vpp * parts.hop, np.maximum(parts.link - slowest, 0.0)
    )  # per micro-batch, once the pipeline is full
    exposed = (
        c.micro_batches * c.most * parts.layer.exposed
        + (c.micro_batches * moved + 2.0 * (c.pp - 1.0) * parts.hop) * (c.pp > 1)
        + parts.gradients
    )
    inside = np.minimum(c.micro_batches * c.layers / c.pp * parts.layer.exposed, work)
    return Iteration(seconds, np.clip(1.0 - work / busy, 0.0, 1.0), exposed, work - inside + parts.optimizer)


def _hop(c: Columns, h: Hardware, constants: Constants) -> Array:
    """One boundary tensor to the next stage."""
    start_s = constants.shared["p2p_sync_s"] * c.handovers
    return np.where(c.pp > 1, point_to_point(boundary_bytes(c), stage_rate(c, h.intra, h.node), start_s), 0.0)


def _tied_ends(c: Columns, h: Hardware) -> Array:
    """The tied embedding's gradient, summed between the two end stages."""
    stride = c.tp * c.cp * c.dp
    ends = span(np.where(c.pp > 1, 2.0, 1.0), stride, c.per_node, h.intra, h.node)
    tied = (c.tied > 0) & (c.pp > 1) & (c.vocab_parallel < 1) & (c.schedule < FOLDED_CODE)
    size = c.gradient_bytes * c.vocab * c.hidden / c.tp
    return np.where(tied, all_reduce(size, 2.0, ends.rate), 0.0)
