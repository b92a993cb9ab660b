"""Times of collectives: start-up plus bytes over the rate of the slowest link, NICs shared by who crosses them.

`size` is the whole message in bytes, `ranks` its group. A ring runs at the slowest link of its cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.training.columns import Array

Numbers = Array | float


def all_reduce(size: Numbers, ranks: Numbers, rate: Numbers, start_s: Numbers = 0.0) -> Array:
    """Ring all-reduce; `start_s` per step of the ring."""
    steps = 2.0 * (np.asarray(ranks) - 1.0)
    return np.asarray(steps * start_s + steps / ranks * (size / np.asarray(rate)))


def reduce_scatter(size: Numbers, ranks: Numbers, rate: Numbers, start_s: Numbers = 0.0) -> Array:
    """Ring reduce-scatter; an all-gather takes as long."""
    steps = np.asarray(ranks) - 1.0
    return np.asarray(steps * start_s + steps / ranks * (size / np.asarray(rate)))


def all_to_all(size: Numbers, ranks: Numbers, rate: Numbers, start_s: Numbers = 0.0) -> Array:
    """Pairwise all-to-all of `size` bytes per rank, of which one share stays home."""
    return reduce_scatter(size, ranks, rate, start_s)


def point_to_point(size: Numbers, rate: Numbers, start_s: Numbers = 0.0) -> Array:
    """One message."""
    return np.asarray(np.asarray(start_s) + np.asarray(size) / np.asarray(rate))


@dataclass(frozen=True, slots=True)
class Span:
    """Where a group of ranks lies: `inside` of them in one node, `rate` of the slowest link of its ring."""

    inside: Array
    crosses: NDArray[np.bool_]
    rate: Array


def span(ranks: Array, stride: Array, per_node: Array, intra: Array, node: Array) -> Span:
    """A group of `ranks` ranks, `stride` apart, in nodes of `per_node`. Groups side by side in a node share its NICs:
    each gets the node's rate divided by the groups that cross it at the same time."""
    inside = np.clip(np.floor(per_node / stride), 1.0, np.maximum(ranks, 1.0))
    crosses = ranks > inside
    groups = np.maximum(np.minimum(per_node / inside, stride), 1.0)
    return Span(inside, crosses, np.where(crosses, np.minimum(intra, node / groups), intra))
