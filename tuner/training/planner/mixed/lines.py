"""Pipelines as tables: which pool each stage stands on, how long its layers take, how many fit.

A line is one cell, one number of chunks and one sequence of pools; its layers per stage are still open. Lines of one
length are handled together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from controlplane.catalog import load
from tuner.training.columns import Array
from tuner.training.constants import Constants
from tuner.training.networks import across_bytes_per_s, nic_class
from tuner.training.planner.mixed.bounds import Speeds
from tuner.training.planner.mixed.cells import Table
from tuner.training.planner.question import PlanQuestion
from tuner.training.staged import boundary_rates

_ROUNDING = 1e-9  # of a layer
_PER_LINE = ("cell", "virtual", "micro_batches", "pipe", "tail", "tied")
_PER_STAGE = ("pools", "most", "forward", "backward", "extra_forward", "extra_backward", "hops", "inner_tail")
_WHOLE = ("cell", "virtual", "pools", "most")


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of one length, one row each. Per stage: `pools`, seconds per layer (`forward`, `backward`) and beside its
    layers (`extra_forward`, `extra_backward`), `most`: layers that fit, `hops`: seconds of a transfer to the next
    stage, `inner_tail`: seconds per layer after the last pass. Per line: `micro_batches`, `virtual`; `pipe` and `tail`:
    what the pipeline takes at least and what ends the iteration at least, `tied` (part of `tail`) the tied embedding."""

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
        return self.pipe + self.tail

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
            np.array([float(load().accelerators[pool.gpu].plannable_memory_bytes or 0.0) for pool in pools]),
            np.array([sorted(set(names)).index(name) for name in names]),
            np.array([across_bytes_per_s(pool, constants) for pool in pools]),
            np.array([float(pool.gpus_per_node) for pool in pools]),
        )


def lines(
    has: Speeds, cells: Table, virtual: Table, room: Table, shapes: list[Table], pools: Pools, layers: int, beat: float
) -> Lines:
    """The lines of some cells (`has`, `virtual`, `room` and `shapes` are theirs), each with its own sequences of pools,
    all of one length. Those without room for the layers, or that cannot beat a time, are left out."""
    which = np.repeat(np.arange(len(cells)), [len(shape) for shape in shapes])
    stands = np.concatenate(shapes)
    p = stands.shape[1]
    m, v = has.micro_batches[which], virtual[which]
    tail = np.maximum(has.end_tail[which, stands[:, 0]], has.end_tail[which, stands[:, -1]])
    most = room[which[:, None], np.arange(p), stands]
    good = (most > 0).all(axis=1) & (most.sum(axis=1) >= layers)
    if np.isfinite(beat):
        step = (m * v)[:, None] * has.layer[which[:, None], stands]
        under = np.floor((beat - tail)[:, None] / step + _ROUNDING) * v[:, None]
        good &= np.minimum(most, under).sum(axis=1) >= layers
    which, stands, most, m, v, tail = (each[good] for each in (which, stands, most, m, v, tail))

    def at(name: str) -> Array:
        return np.asarray(getattr(has, name)[which[:, None], stands])

    before, after = np.zeros(stands.shape), np.zeros(stands.shape)
    before[:, 0] += has.entry[which, stands[:, 0]]
    before[:, -1] += has.output_forward[which, stands[:, -1]]
    after[:, -1] += has.output_backward[which, stands[:, -1]]
    stride = np.broadcast_to(has.stride[which][:, None], stands.shape)
    rate = boundary_rates(
        stands, pools.nic[stands], stride, pools.per_node[stands], at("intra"), at("node"), pools.across[stands]
    )
    hops = (has.sync[which][:, None] + has.volume[which][:, None] / rate) * (v == 1)[:, None]
    inner, tied = at("inner_tail"), has.tied_bytes[which] / rate[:, -1] * (p > 1)
    found = Lines(
        cell=cells[which], pools=stands, forward=at("forward"), backward=at("backward"), extra_forward=before,
        extra_backward=after, most=most, hops=hops, inner_tail=inner, micro_batches=m, virtual=v,
        pipe=np.zeros(len(which)), tail=np.maximum(tail, layers / (1.0 / inner).sum(axis=1)) + tied, tied=tied,
    )  # fmt: skip
    found = replace(found, pipe=_pipe(found, layers))
    return found.some(np.flatnonzero(found.bound < beat))


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
