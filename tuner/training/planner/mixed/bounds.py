"""What no pipeline of a cell can beat, whatever its order of pools, numbers of stages and layers per stage.

A stage that works m micro-batches of t seconds starts after the first has come through the stages before it and ends
before the last goes back through them: T >= m t + (time of the stages before) / v, for every stage. With layers that
may be cut and the fastest stages first, filling every stage to its limit is the best there is, which gives T in closed
form. What ends an iteration grows with the fullest stage, which holds at least an even share. Neither rises with
memory, bandwidth or peak.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from tuner.training.collectives import all_reduce
from tuner.training.columns import Array
from tuner.training.compute import LayerTime
from tuner.training.constants import Constants
from tuner.training.hardware import hardware
from tuner.training.iteration import stage_parts
from tuner.training.offload import optimizer_time
from tuner.training.placement.bound import least_bottleneck
from tuner.training.planner.mixed.cells import ZERO, Table, pool_rows
from tuner.training.planner.question import PlanQuestion
from tuner.training.sharding import reduced
from tuner.training.staged import with_layers

_ROUNDING = 1e-9  # of a layer


@dataclass(frozen=True, slots=True)
class Speeds:
    """Seconds of one micro-batch on a stage of one layer, shape (cells, pools): the layer in both directions, the
    embedding, the output; `inner_tail`: after the last pass, per layer of a stage without vocabulary; `end_tail`: at
    least, of one with it. `intra`, `node`: rates in bytes per second. Per cell: `sync` and `volume` of a transfer,
    `tied_s_per_rate`: what the tied embedding sends, `stride`: ranks of a stage."""

    forward: Array
    backward: Array
    entry: Array
    output_forward: Array
    output_backward: Array
    inner_tail: Array
    end_tail: Array
    intra: Array
    node: Array
    sync: Array
    volume: Array
    tied_bytes: Array
    stride: Array
    micro_batches: Array

    @property
    def layer(self) -> Array:
        """Both directions."""
        return self.forward + self.backward

    @property
    def output(self) -> Array:
        """Both directions."""
        return self.output_forward + self.output_backward

    def some(self, which: Any) -> Speeds:
        """Of some cells."""
        return Speeds(*(getattr(self, item.name)[which] for item in fields(self)))


def speeds(question: PlanQuestion, table: Table, constants: Constants) -> Speeds:
    """Of every cell on every pool. What sharding adds to a layer is left out."""
    pools = len(question.case.pools)
    rows, shape = pool_rows(question, table, constants), (len(table), pools)
    # Cells that differ in sharding only have the same layers.
    bare = table.copy()
    bare[:, ZERO] = 0
    alike, which = _distinct(bare)
    some = pool_rows(question, bare[alike], constants)
    parts, h = stage_parts(some, constants), hardware(rows, constants)

    def spread(each: Array) -> Array:
        return each.reshape(-1, pools)[which]

    layer = LayerTime(*(spread(getattr(parts.layer, item.name)).ravel() for item in fields(LayerTime)))
    inner = replace(with_layers(rows, np.ones(len(rows))), vocab=np.zeros(len(rows)))
    tails = [
        reduced(c, h, layer, constants.shared["contention"]) + optimizer_time(c, h) for c in (inner, rows)
    ]  # fmt: skip
    one = np.where(rows.tied > 0, all_reduce(rows.gradient_bytes * rows.vocab * rows.hidden / rows.tp, 2.0, 1.0), 0.0)
    ends = (parts.embedding, parts.output_forward, parts.output_backward)
    alone = (
        constants.shared["p2p_sync_s"] * rows.handovers,
        rows.element_bytes * rows.micro_batch * rows.seq / rows.cp * rows.hidden / rows.tp,
        one, rows.tp * rows.cp * rows.dp, rows.micro_batches,
    )  # fmt: skip
    return Speeds(
        layer.forward.reshape(shape), layer.backward.reshape(shape), *map(spread, ends),
        *(each.reshape(shape) for each in (*tails, h.intra, h.node)), *(each.reshape(shape)[:, 0] for each in alone),
    )  # fmt: skip


def _distinct(table: Table) -> tuple[Table, Table]:
    """First row of each kind, and the kind of every row."""
    key = np.zeros(len(table), dtype=np.int64)
    for column in table.T:
        values, place = np.unique(column, return_inverse=True)
        key = key * len(values) + place
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    return first, which


def bounds(question: PlanQuestion, has: Speeds, stages: Table, virtual: float, crossing: Array) -> Array:
    """Seconds that no pipeline of 1, 2, ... stages (columns) with so many chunks each beats, for every cell (rows);
    infinite where there is no room for so many stages. `crossing`: seconds per cell of one transfer between pools: a
    pipeline on several pools sends one each way for every chunk, or it stays on one pool."""
    found = _anywhere(question, has, stages, virtual)
    chunks = virtual if np.isfinite(virtual) else 1.0
    apart = (has.micro_batches * chunks * crossing)[:, None]
    if stages.shape[1] == 1 or not np.any(apart > found):
        return found
    alone = np.full(found.shape, np.inf)
    for pool in range(stages.shape[1]):
        only = stages * (np.arange(stages.shape[1]) == pool)
        with np.errstate(divide="ignore"):  # a pool without room for a stage
            here = _anywhere(question, has, only, virtual)
        alone[:, : here.shape[1]] = np.minimum(alone[:, : here.shape[1]], here)
    return np.asarray(np.minimum(alone, np.maximum(found, apart)))


def _anywhere(question: PlanQuestion, has: Speeds, stages: Table, virtual: float) -> Array:
    paces, m = _paces(question, has, stages), has.micro_batches[:, None]
    power = (1.0 - 1.0 / (m * virtual)) ** np.arange(paces.shape[1])
    sync = has.sync[:, None] if virtual == 1 else 0.0 * m
    lost = 2.0 * sync * m * np.cumsum(paces * (1.0 - power), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (m * work(question, has)[:, None] + lost) / np.cumsum(paces * power, axis=1)
    return np.asarray(np.where(paces > 0, found, np.inf) + _tails(question, has, stages, paces.shape[1]))


def counts_bound(question: PlanQuestion, has: Speeds, cell: int, taken: Table, virtual: int) -> Array:
    """Seconds that no pipeline of a cell with so many stages of each pool (rows) beats, in any order, without transfers
    and without what ends the iteration."""
    one = has.some(slice(cell, cell + 1))
    order = np.argsort(one.layer[0], kind="stable")
    each = taken[:, order]
    ends = np.cumsum(each, axis=1)
    m = float(one.micro_batches[0])
    kept = 1.0 - 1.0 / (m * virtual)
    # Stages from a to b of one pool: kept^a + ... + kept^(b - 1), all of them at its pace.
    spans = m * virtual * (kept ** (ends - each) - kept**ends)
    if kept == 0.0:  # a single chunk of a single micro-batch: only the first stage counts
        spans = (ends - each == 0) * (each > 0)
    with np.errstate(divide="ignore"):
        return np.asarray(m * work(question, one)[0] / (spans / one.layer[0][order]).sum(axis=1))


def held_under(has: Speeds, reach: Table, virtual: int, tail: Array, beat: float) -> Table:
    """Layers that a stage of each pool holds at most in less than a time, whole chunks of them and no more than memory
    takes (`reach`): shape (cells, lengths, pools)."""
    with np.errstate(invalid="ignore"):
        under = (
            np.floor((beat - tail)[:, None] / (has.micro_batches[:, None] * virtual * has.layer) + _ROUNDING) * virtual
        )
    return np.asarray(np.minimum(reach, np.maximum(under, 0.0)[:, None, :]).astype(np.int64))


def seats(held: Table, stages: Table) -> Table:
    """Layers that pipelines of 1, 2, ... stages (columns) seat at most where a stage holds so many."""
    order = np.argsort(-held, axis=2, kind="stable")
    each = np.take_along_axis(held, order, 2)
    there = np.take_along_axis(np.broadcast_to(stages[:, None, :], each.shape), order, 2)
    before = np.cumsum(there, axis=2) - there
    lengths = np.arange(1, each.shape[1] + 1)[:, None]
    return np.asarray((np.clip(lengths - before, 0, there) * each).sum(axis=2))


def least_tail(has: Speeds, stages: Table) -> Array:
    """Seconds per cell that end an iteration at least."""
    return np.asarray(np.where(stages > 0, has.end_tail, np.inf).min(axis=1))


def slowest_stage_bound(question: PlanQuestion, has: Speeds, stages: Table, held: Array) -> Array:
    """Seconds per cell where stages hold no more than `held` layers each: all micro-batches on the slowest stage."""
    slowest = least_bottleneck(
        stages.astype(np.float64), has.layer, held, np.full(len(stages), question.case.model.layers)
    )
    return np.asarray(has.micro_batches * slowest + least_tail(has, stages))


def work(question: PlanQuestion, has: Speeds) -> Array:
    """Layers, the ends counted as the fraction of a layer that they are at least."""
    ends = (has.output / has.layer).min(axis=1) + (has.entry / has.layer).min(axis=1)
    return np.asarray(question.case.model.layers + ends)


def _tails(question: PlanQuestion, has: Speeds, stages: Table, most: int) -> Array:
    room, end = stages > 0, least_tail(has, stages)[:, None]
    layers = question.case.model.layers
    # Stages of one kind share the layers so that their ends come together; no more of a kind than there are.
    alike = np.where(room, has.inner_tail, np.inf).min(axis=1)[:, None] * layers / np.arange(1, most + 1)
    every = layers / np.where(room, stages / has.inner_tail, 0.0).sum(axis=1)[:, None]
    tied = (has.tied_bytes / has.intra.max(axis=1))[:, None] * (np.arange(most) > 0)
    return np.asarray(np.maximum(np.maximum(alike, every), end) + tied)


def _paces(question: PlanQuestion, has: Speeds, stages: Table) -> Array:
    """Layers per second of the fastest stage, the second fastest, ...; 0 where there are no more."""
    most = min(int(stages.sum(axis=1).max(initial=1)), question.case.model.layers)
    order = np.argsort(has.layer, axis=1, kind="stable")
    ends = np.cumsum(np.take_along_axis(stages, order, 1), axis=1)
    place = (ends[:, :, None] <= np.arange(most)).sum(axis=1)
    pace = 1.0 / np.take_along_axis(has.layer, order, 1)
    padded = np.hstack([pace, np.zeros((len(pace), 1))])
    return np.take_along_axis(padded, place, 1)
