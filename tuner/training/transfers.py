"""What a pipeline's transfers keep its busiest link occupied for, per micro-batch: hidden or not, no iteration is shorter.

A link carries each direction on its own. A stage of an open pipeline sends an activation forward and a gradient back
for each of its chunks; the two ends have one neighbour less, except that virtual stages close the ring but for the very
first and the very last chunk. A folded pipeline turns inside its end stages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.training.collectives import Numbers
from tuner.training.columns import FOLDED_CODE, Array, Columns

Ints = NDArray[np.int64]


def boundary_bytes(c: Columns) -> Array:
    """One boundary tensor of one micro-batch on one rank; every tensor-parallel rank sends its share."""
    return np.asarray(c.element_bytes * c.micro_batch * c.seq / c.cp * c.hidden / c.tp)


def stage_rate(c: Columns, intra: Array, node: Array) -> Array:
    """Bytes per second that a rank has towards the next stage, where all stages are alike."""
    stride = c.tp * c.cp * c.dp
    crosses = stride * c.pp > c.per_node
    return np.where(crosses, np.minimum(intra, node / np.minimum(stride, c.per_node)), intra)


def link_seconds(c: Columns, intra: Array, node: Array) -> Array:
    """Seconds per micro-batch of the busiest link in one direction, stages alike."""
    stride = c.tp * c.cp * c.dp
    nodes = np.ceil(stride * c.pp / np.maximum(c.per_node, stride))
    places = np.where(nodes > 1, nodes, c.pp)  # what is joined by links: nodes, or accelerators of one node
    ends = np.where(c.schedule >= FOLDED_CODE, c.vpp, 1.0)
    messages = 2.0 * c.vpp - np.where(places <= 2, ends, 0.0)
    return np.where(c.pp > 1, messages * boundary_bytes(c) / stage_rate(c, intra, node), 0.0)


def busiest_link_seconds(
    pool: Ints, nic: Ints, stride: Array, per_node: Array, intra: Array, volume: Array, rate: Array,
    virtual: Numbers, closed: bool = True,
) -> Array:  # fmt: skip
    """The same per plan where stages stand on several pools; shapes (plans, stages), `virtual` per plan. `rate`: to the
    next stage, the last column back to the first. `closed`: chunks go on from the last stage to the first."""
    plans, p = pool.shape
    share = np.minimum(stride, per_node) / per_node  # of a node that a stage takes, at most all of it
    place = np.floor(_seat(pool) * share + 1e-9).astype(np.int64)  # node of a stage among its pool's
    chunks = np.broadcast_to(np.reshape(np.asarray(virtual, dtype=np.float64), (-1, 1)), (plans, 1))
    count = np.repeat(chunks, p, axis=1)
    count[:, -1] = (chunks[:, 0] - 1.0) * closed
    after = np.roll(np.arange(p), -1)
    leaves = (pool != pool[:, after]) | (place != place[:, after])
    unlike = leaves & (nic != nic[:, after])
    sent = count * volume / rate
    kinds, nodes = int(pool.max(initial=0)) + 1, int(place.max(initial=0)) + 1
    key = (np.arange(plans)[:, None] * kinds + pool) * nodes + place
    inside = np.where(leaves, 0.0, count * volume / intra)
    most = (inside + np.roll(inside, 1, axis=1)).max(axis=1)
    for part in (np.where(leaves & ~unlike, sent, 0.0), np.where(unlike, sent, 0.0)):
        if part.any():  # forward over a boundary from the stage before it, back over it from the stage behind it
            both = np.bincount(key.ravel(), (part + np.roll(part, 1, axis=1)).ravel(), plans * kinds * nodes)
            most = np.maximum(most, both.reshape(plans, -1).max(axis=1))
    return np.asarray(most)


def _seat(pool: Ints) -> NDArray[Any]:
    """How many earlier stages stand on the same pool."""
    seat = np.zeros(pool.shape)
    for kind in range(int(pool.max(initial=0)) + 1):
        here = pool == kind
        seat += here * (np.cumsum(here, axis=1) - 1)
    return seat
