"""Iterations whose stages differ: other accelerators, other NICs, other numbers of layers. Any number of plans at once.

A stage is one row of the evaluator's columns on its own pool; pipelines are stepped through pass by pass (`stepped`),
each boundary at its own rate. Data-parallel groups lie inside a stage, so the slowest stage's gradients and update end
the iteration.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.training.collectives import all_reduce
from tuner.training.columns import FOLDED_CODE, Array, Columns
from tuner.training.constants import Constants
from tuner.training.hardware import Hardware, hardware
from tuner.training.iteration import stage_parts
from tuner.training.offload import optimizer_time
from tuner.training.schedules import pipeline_time
from tuner.training.sharding import reduced
from tuner.training.stepped import steppable, stepped_seconds
from tuner.training.transfers import boundary_bytes, busiest_link_seconds

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Staged:
    """Plans of one shape (stages, micro-batches, virtual stages, schedule). `rows`: a column row per plan and stage,
    plan after plan; the others have the shape (plans, stages). `across`: bytes per second that a node gets towards
    nodes of another NIC class."""

    rows: Columns
    pool: Ints
    nic: Ints
    across: Array
    layers: Array
    schedule: str
    micro_batches: int
    virtual: int
    overlap: bool


@dataclass(frozen=True, slots=True)
class StagedTimes:
    """Per plan, seconds; they add up: `seconds` = `busy` (one stage's mean work) + `waiting` + `gradients` +
    `optimizer`. `collectives`: the part of `busy` that is traffic inside layers."""

    seconds: Array
    bubble: Array
    exposed_comm_s: Array
    busy: Array
    collectives: Array
    waiting: Array
    gradients: Array
    optimizer: Array

    @property
    def computing_s(self) -> Array:
        """Seconds that a device computes on average."""
        return self.busy - self.collectives + self.optimizer


def staged_times(plans: Staged, constants: Constants) -> StagedTimes:
    """Times of every plan."""
    shape, m = plans.layers.shape, plans.micro_batches
    c = with_layers(plans.rows, plans.layers.ravel())
    h = hardware(c, constants)
    parts = stage_parts(c, constants)
    forward, backward = stage_work(c, plans.layers, parts, shape)
    rate, hops = boundaries(plans, c, h, constants)
    busy = forward + backward
    link = _links(plans, c, h, rate)
    whole = _pipeline(plans, c, forward, backward, hops, parts.layer.weight.reshape(shape), link)
    gradients, optimizer = _tails(c, h, parts.layer, shape, constants)
    ends = gradients + optimizer
    last = ends.argmax(axis=1)[:, None]
    tied = _tied(c, rate, shape)
    after = np.take_along_axis(gradients, last, 1)[:, 0] + tied
    update = np.take_along_axis(optimizer, last, 1)[:, 0]
    work = m * busy.mean(axis=1)
    inside = m * (parts.layer.exposed.reshape(shape) * plans.layers)
    moved = np.zeros(shape[0])
    if shape[1] > 1:
        hop = 2.0 * hops[:, :-1].max(axis=1)
        moved = m * (np.maximum(link - busy.max(axis=1), 0.0) if plans.overlap else hop) + (shape[1] - 1.0) * hop
    return StagedTimes(
        seconds=whole + after + update,
        bubble=np.clip(1.0 - work / whole, 0.0, 1.0),
        exposed_comm_s=inside.max(axis=1) + moved + after,
        busy=work,
        collectives=np.minimum(inside.mean(axis=1), work),
        waiting=whole - work,
        gradients=after,
        optimizer=update,
    )


def with_layers(c: Columns, layers: Array) -> Columns:
    """Rows that each are a stage with so many layers."""
    return replace(c, first=layers, most=layers, last=layers)


def taken(c: Columns, rows: Any) -> Columns:
    """Some rows of columns, any of them more than once."""
    picked = {
        item.name: getattr(c, item.name)[rows]
        for item in fields(Columns)
        if isinstance(getattr(c, item.name), np.ndarray)
    }
    return replace(c, **picked)


def stage_work(c: Columns, layers: Array, parts: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Forward and backward seconds of one micro-batch on every stage."""
    forward = parts.layer.forward.reshape(shape) * layers
    backward = parts.layer.backward.reshape(shape) * layers
    go, back, entry = (each.reshape(shape) for each in (parts.output_forward, parts.output_backward, parts.embedding))
    shared = (c.vocab_parallel.reshape(shape) > 0) & (shape[1] > 1)
    places = np.arange(shape[1])
    final = np.where(c.schedule.reshape(shape) >= FOLDED_CODE, 0, shape[1] - 1)  # folded: both ends on the first stage
    last, first = (places == final) | shared, np.where(shared, 1.0 / shape[1], places == 0)
    return forward + last * go + first * entry, backward + last * back


def boundaries(plans: Staged, c: Columns, h: Hardware, constants: Constants) -> tuple[Array, Array]:
    """Rate in bytes per second and rank, and seconds of one transfer, from every stage to the next; the last column is
    the way from the last stage to the first."""
    shape = plans.layers.shape
    stride = (c.tp * c.cp * c.dp).reshape(shape)
    rate = boundary_rates(
        plans.pool, plans.nic, stride, c.per_node.reshape(shape), h.intra.reshape(shape), h.node.reshape(shape),
        plans.across,
    )  # fmt: skip
    volume = boundary_bytes(c).reshape(shape)
    sync = constants.shared["p2p_sync_s"] * c.handovers.reshape(shape)
    return rate, sync + volume / rate


def boundary_rates(
    pool: Ints, nic: Ints, stride: Array, per_node: Array, intra: Array, node: Array, across: Array
) -> Array:
    """Bytes per second that a rank gets from its stage to the next, all shapes (plans, stages). Ranks of a stage that
    leave a node together share its NICs; stages of one pool may share a node, those of two pools never do; unlike NICs
    meet on the network `across`."""
    sharing = np.minimum(stride, per_node)
    out = np.minimum(intra, node / sharing)
    kinds = int(pool.max(initial=0)) + 1
    place = np.arange(len(pool))[:, None] * kinds + pool
    together = np.bincount(place.ravel(), minlength=len(pool) * kinds)[place]  # stages on the same pool
    own = np.where(stride * together > per_node, out, intra)
    far = across / sharing
    met = np.where(nic == _next(nic), np.minimum(out, _next(out)), np.minimum(far, _next(far)))
    return np.where(pool == _next(pool), own, met)


def _next(each: NDArray[Any]) -> NDArray[Any]:
    return np.roll(each, -1, axis=1)


def _links(plans: Staged, c: Columns, h: Hardware, rate: Array) -> Array:
    shape = plans.layers.shape
    return busiest_link_seconds(
        plans.pool, plans.nic, (c.tp * c.cp * c.dp).reshape(shape), c.per_node.reshape(shape), h.intra.reshape(shape),
        boundary_bytes(c).reshape(shape), rate, plans.virtual, closed=bool((c.schedule < FOLDED_CODE).all()),
    )  # fmt: skip


def _pipeline(
    plans: Staged, c: Columns, forward: Array, backward: Array, hops: Array, weight: Array, link: Array
) -> Array:
    p, m, v = plans.layers.shape[1], plans.micro_batches, plans.virtual
    if steppable(plans.schedule, p, m, v) and not plans.overlap:
        return np.maximum(stepped_seconds(plans.schedule, m, v, forward, backward, hops), m * link)
    if steppable(plans.schedule, p, m, v):
        # Transfers are hidden once the pipeline is full, as far as the links carry them in that time.
        full = stepped_seconds(plans.schedule, m, v, forward, backward, 0.0 * hops)
        late = np.maximum(link - (forward + backward).max(axis=1), 0.0)
        return np.asarray(full + m * late + 2.0 * hops[:, :-1].sum(axis=1))
    busy, first = forward + backward, slice(None, None, p)
    slowest = busy.argmax(axis=1)[:, None]
    hop = hops[:, :-1].max(axis=1) if p > 1 else np.zeros(len(hops))
    return pipeline_time(
        c.schedule[first], c.pp[first], c.micro_batches[first], c.vpp[first], busy.sum(axis=1), busy.max(axis=1),
        np.take_along_axis(weight * plans.layers, slowest, 1)[:, 0], hop, c.overlap_pp[first],
        link=link,
    )  # fmt: skip


def _tails(c: Columns, h: Hardware, layer: Any, shape: tuple[int, ...], constants: Constants) -> tuple[Array, Array]:
    """Gradient traffic and update of every stage; only the ends hold a vocabulary matrix."""
    end = np.zeros(shape)
    end[:, 0] = end[:, -1] = 1.0
    own = replace(c, vocab=np.where(c.vocab_parallel > 0, c.vocab, c.vocab * end.ravel()))
    gradients = reduced(own, h, layer, constants.shared["contention"])
    return gradients.reshape(shape), optimizer_time(own, h).reshape(shape)


def _tied(c: Columns, rate: Array, shape: tuple[int, ...]) -> Array:
    """The tied embedding's gradient, summed between first and last stage."""
    first = slice(None, None, shape[1])
    size = (c.gradient_bytes * c.vocab * c.hidden / c.tp)[first]
    tied = (c.tied[first] > 0) & (shape[1] > 1) & (c.vocab_parallel[first] < 1)
    return np.where(tied, all_reduce(size, 2.0, rate[:, -1]), 0.0)
