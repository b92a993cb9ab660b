"""Pipelines as tables: which pool each stage stands on, how long its layers take, how many fit.

A line is one cell, one number of chunks and one sequence of pools; its layers per stage are still open. Lines of one
length are handled together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any

import numpy as np

from tuner.training.columns import Array
from tuner.training.constants import Constants
from tuner.training.networks import across_bytes_per_s, nic_class
from tuner.training.planner.mixed.bounds import Speeds
from tuner.training.planner.mixed.cells import Table
from tuner.training.planner.question import PlanQuestion
from tuner.training.room import usable_bytes
from tuner.training.staged import boundary_rates
from tuner.training.transfers import busiest_link_seconds

_ROUNDING = 1e-9  # of a layer
_PER_LINE = ("cell", "virtual", "micro_batches", "pipe", "floor", "tail", "tied")
_PER_STAGE = ("pools", "most", "forward", "backward", "extra_forward", "extra_backward", "hops", "inner_tail")
_WHOLE = ("cell", "virtual", "pools", "most")


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of one length, one row each. Per stage: `pools`, seconds per layer (`forward`, `backward`) and beside its
    layers (`extra_forward`, `extra_backward`), `most`: layers that fit, `hops`: seconds of a transfer to the next
    stage, `inner_tail`: seconds per layer after the last pass. Per line: `micro_batches`, `virtual`; `pipe` and `tail`:
    what the pipeline takes at least and what ends the iteration at least, `tied` (part of `tail`) the tied embedding,
    `floor`: what hidden transfers take at least."""

    cell: Table
    pools: Table
    forward: Array
    backward: Array
    extra_forward: Array
    extra_backward: Array
    most: Table
    hops: Array
    inner_tail: Array
    micro_batches: Array
    virtual: Table
    pipe: Array
    floor: Array
    tail: Array
    tied: Array

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def layer(self) -> Array:
        """Both directions."""
        return self.forward + self.backward

    @property
    def extra(self) -> Array:
        """Both directions."""
        return self.extra_forward + self.extra_backward

    @property
    def bound(self) -> Array:
        """No answer of a line is faster."""
        return np.asarray(np.maximum(self.pipe, self.floor) + self.tail)

    @classmethod
    def none(cls, p: int) -> Lines:
        """No line of p stages."""
        empty: dict[str, Any] = dict.fromkeys(_PER_LINE, np.zeros(0)) | dict.fromkeys(_PER_STAGE, np.zeros((0, p)))
        return cls(**{
            name: each.astype(np.int64) if name in _WHOLE else each for name, each in empty.items()
        })  # fmt: skip

    def some(self, which: Any) -> Lines:
        """Part of the lines, in this order."""
        return Lines(*(getattr(self, item.name)[which] for item in fields(self)))


def joined(parts: list[Lines]) -> Lines:
    """Lines of one length from several tables."""
    return Lines(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Lines)))


@dataclass(frozen=True, slots=True)
class Pools:
    """What lines need to know of the pools, an element each: memory, NIC class, rate across classes, node size."""

    limits: Array
    nic: Table
    across: Array
    per_node: Array

    @classmethod
    def of(cls, question: PlanQuestion, constants: Constants) -> Pools:
        """Of a question's pools."""
        pools = question.case.pools
        names = [nic_class(pool) for pool in pools]
        return cls(
            np.array([usable_bytes(pool) for pool in pools]),
            np.array([sorted(set(names)).index(name) for name in names]),
            np.array([across_bytes_per_s(pool, constants) for pool in pools]),
            np.array([float(pool.gpus_per_node) for pool in pools]),
        )


def crossing_seconds(has: Speeds, pools: Pools) -> Array:
    """Of every cell: one transfer between the two pools that reach each other quickest, without its hand-over."""
    cells, rate = len(has.stride), np.zeros(len(has.stride))
    stride = np.broadcast_to(has.stride[:, None], (cells, 2))
    for pair in combinations(range(len(pools.nic)), 2):
        both = np.array(pair)
        stands = np.broadcast_to(both, (cells, 2))
        found = boundary_rates(
            stands, pools.nic[stands], stride, pools.per_node[stands], has.intra[:, both], has.node[:, both],
            pools.across[stands],
        )  # fmt: skip
        rate = np.maximum(rate, found[:, 0])
    return np.asarray(has.volume / rate)


def lines(
    has: Speeds, cells: Table, virtual: Table, room: Table, shapes: list[Table], pools: Pools, layers: int, beat: float
) -> Lines:
    """The lines of some cells (`has`, `virtual`, `room` and `shapes` are theirs), each with its own sequences of pools,
    all of one length. Those without room for the layers, or that cannot beat a time, are left out."""
    which = np.repeat(np.arange(len(cells)), [len(shape) for shape in shapes])
    stands = np.concatenate(shapes)
    p, kinds = stands.shape[1], room.shape[2]
    tails = np.minimum.reduce(has.end_tail, axis=1)
    held = room
    if np.isfinite(beat):
        step = (has.micro_batches * virtual)[:, None] * has.layer
        under = np.floor((beat - tails)[:, None] / step + _ROUNDING) * virtual[:, None]
        held = np.minimum(room, np.maximum(under, 0.0).astype(np.int64)[:, None, :])
    held = np.where(held > 0, held, -layers * p)  # a stage without room spoils its line
    seats = np.take(held, (which[:, None] * p + np.arange(p)) * kinds + stands).sum(axis=1)
    which, stands = (each[seats >= layers] for each in (which, stands))
    good = _even(has, which, stands, virtual, layers) + tails[which] < beat
    which, stands = which[good], stands[good]
    place, m, v = which[:, None] * kinds + stands, has.micro_batches[which], virtual[which]

    def at(each: Array) -> Array:
        return np.asarray(np.take(each, place))

    before, after = np.zeros(stands.shape), np.zeros(stands.shape)
    before[:, 0] += has.entry[which, stands[:, 0]]
    before[:, -1] += has.output_forward[which, stands[:, -1]]
    after[:, -1] += has.output_backward[which, stands[:, -1]]
    stride = np.broadcast_to(has.stride[which][:, None], stands.shape)
    rate = boundary_rates(
        stands, pools.nic[stands], stride, pools.per_node[stands], at(has.intra), at(has.node), pools.across[stands]
    )
    hops = has.sync[which][:, None] + has.volume[which][:, None] / rate
    floor, hidden = np.zeros(len(which)), np.flatnonzero(v > 1)
    if len(hidden):
        volume = np.broadcast_to(has.volume[which][:, None], stands.shape)
        link = busiest_link_seconds(
            stands[hidden], pools.nic[stands[hidden]], stride[hidden], pools.per_node[stands[hidden]],
            at(has.intra)[hidden], volume[hidden], rate[hidden], v[hidden],
        )  # fmt: skip
        floor[hidden] = m[hidden] * link + 2.0 * hops[hidden, :-1].sum(axis=1)
        hops[hidden] = 0.0
    inner, tied = at(has.inner_tail), has.tied_bytes[which] / rate[:, -1] * (p > 1)
    tail = np.maximum(has.end_tail[which, stands[:, 0]], has.end_tail[which, stands[:, -1]])
    found = Lines(
        cell=cells[which], pools=stands, forward=at(has.forward), backward=at(has.backward), extra_forward=before,
        extra_backward=after, most=np.take(room, (which[:, None] * p + np.arange(p)) * kinds + stands), hops=hops,
        inner_tail=inner, micro_batches=m, virtual=v, pipe=np.zeros(len(which)), floor=floor,
        tail=np.maximum(tail, layers / (1.0 / inner).sum(axis=1)) + tied, tied=tied,
    )  # fmt: skip
    found = replace(found, pipe=_pipe(found, layers))
    return found.some(np.flatnonzero(found.bound < beat))


def _even(has: Speeds, which: Table, stands: Table, virtual: Table, layers: int) -> Array:
    """`_pipe` without transfers, from the cells' numbers."""
    kinds, p = has.forward.shape[1], stands.shape[1]
    layer = has.layer
    kept = 1.0 - 1.0 / (has.micro_batches * virtual)
    paces = np.sort(np.take(1.0 / layer, which[:, None] * kinds + stands), axis=1)[:, ::-1]
    power = kept[:, None] ** np.arange(p)
    first, last = which * kinds + stands[:, 0], which * kinds + stands[:, -1]
    ends = np.take(has.entry / layer, first) + np.take(has.output / layer, last)
    return np.asarray(has.micro_batches[which] * (layers + ends) / np.einsum("ij,ij->i", paces, power[which]))


def _pipe(line: Lines, layers: int) -> Array:
    """`bounds` for the stages that the line has, each transfer at its own rate."""
    m, v = line.micro_batches[:, None], line.virtual[:, None]
    pace = -np.sort(-1.0 / line.layer, axis=1)
    power = (1.0 - 1.0 / (m * v)) ** np.arange(pace.shape[1])
    short = np.sort(line.hops[:, :-1], axis=1).cumsum(axis=1)  # the quickest transfers first
    # R_i = T kept^i - 2 sum_j hop_j kept^(i - j) >= T kept^i - 2 kept^i sum_(j <= i) hop_j
    lost = 2.0 * np.column_stack([np.zeros(len(pace)), short]) * power
    work = layers + (line.extra / line.layer).sum(axis=1)
    reached = (pace * power).sum(axis=1)
    even = (line.micro_batches * work) / reached + (pace * lost).sum(axis=1) / reached
    least = (line.micro_batches[:, None] * (line.virtual[:, None] * line.layer + line.extra)).max(axis=1)
    return np.asarray(np.maximum(even, least))
