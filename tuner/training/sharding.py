"""Who holds which share of weights, gradients and optimizer state, and the traffic that follows.

ZeRO levels 0 to 3 over all data-parallel ranks (arXiv 1910.02054), smaller groups for weights and gradients (hybrid
sharding, and the three levels of arXiv 2501.04266), and a second copy of the weights inside a group that backward
gathers from (hpZ of ZeRO++, arXiv 2306.10209). A group lies on neighbouring ranks, inside a node where it fits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.training.collectives import reduce_scatter, span
from tuner.training.columns import Array, Columns
from tuner.training.compute import LayerTime
from tuner.training.hardware import Hardware
from tuner.training.parameters import stage_parameters


@dataclass(frozen=True, slots=True)
class Shards:
    """Over how many ranks each is cut; `ranks` is all there are."""

    ranks: Array
    weights: Array
    gradients: Array
    optimizer: Array


Parts = tuple[tuple[Array, Shards, Array], ...]


def shards(c: Columns) -> Shards:
    """The cuts of every configuration."""
    ranks = c.dp * c.cp
    weights = np.where(c.weight_group > 0, np.minimum(c.weight_group, ranks), ranks)
    gradients = np.where(c.gradient_group > 0, np.minimum(c.gradient_group, ranks), ranks)
    return Shards(
        ranks,
        np.where(c.zero > 2, weights, 1.0),
        np.where(c.zero > 1, gradients, 1.0),
        np.where(c.zero > 0, ranks, 1.0),
    )


def gathered(c: Columns, h: Hardware, layer: LayerTime, contention: float, parts: Parts | None = None) -> LayerTime:
    """What every micro-batch pays: weights gathered before forward and before backward, gradients scattered after.
    `parts`: of these columns, where they are known."""
    if not np.any(c.zero > 1):
        return layer
    fetch, again, scatter = (np.zeros_like(c.tp) for _ in range(3))
    embedding, layers = c.vocab * c.hidden / c.tp, np.maximum(c.first, c.last)
    for at, (parameters, cut, stride) in enumerate(parts or parts_of(c)):
        size = (parameters - (embedding if at == 0 else 0.0)) / layers
        weights, gradients = c.element_bytes * size, c.gradient_bytes * size
        fetch = fetch + _scattered(c, h, weights, cut.weights, stride)
        second = np.where(c.secondary_group > 0, np.minimum(c.secondary_group, cut.weights), cut.weights)
        again = again + _scattered(c, h, weights, second, stride)
        scatter = scatter + _scattered(c, h, gradients, cut.gradients, stride)
    # Without accumulation the one reduction hides behind the end of backward (`reduced`).
    scatter = np.where((c.zero > 2) | (c.micro_batches > 1), scatter, 0.0)
    forward = layer.forward + exposed(fetch, layer.forward, contention)
    backward = layer.backward + exposed(again + scatter, layer.backward, contention)
    late = forward + backward - layer.forward - layer.backward
    return LayerTime(forward, backward, layer.weight, layer.exposed + late)


def reduced(c: Columns, h: Hardware, layer: LayerTime, contention: float, parts: Parts | None = None) -> Array:
    """What an iteration's end pays: gradients summed over the ranks that `gathered` did not reach, and weights brought
    to those that hold copies; behind the last backward pass with `overlap_dp`."""
    reduce, gather = np.zeros_like(c.tp), np.zeros_like(c.tp)
    scattered = (c.zero > 2) | ((c.zero > 1) & (c.micro_batches > 1))
    for parameters, cut, stride in parts or parts_of(c):
        gradients, weights = c.gradient_bytes * parameters, c.element_bytes * parameters
        inner = np.where(scattered, cut.gradients, 1.0)
        outer = cut.ranks / inner
        down = span(outer, stride * inner, c.per_node, h.intra, h.node)
        reduce = reduce + reduce_scatter(gradients / inner, outer, down.rate)
        gather = gather + _scattered(c, h, weights / cut.weights, cut.ranks / cut.weights, stride * cut.weights)
    sharded, window = c.zero > 0, c.most * layer.backward
    # Without shards the second half of a ring all-reduce takes as long as the first; hidden, it moves 16-bit weights.
    open_ = reduce + np.where(sharded, gather, reduce)
    second = np.where(sharded, gather, reduce * c.element_bytes / c.gradient_bytes)
    hidden = exposed(reduce, window, contention) + exposed(second, window / 2.0, contention)
    return np.asarray(np.where(c.overlap_dp > 0, hidden, open_))


def updated_parameters(c: Columns, parts: Parts | None = None) -> Array:
    """Parameters that one rank of an end stage updates."""
    return np.asarray(sum(parameters / cut.optimizer for parameters, cut, _ in parts or parts_of(c)))


def parts_of(c: Columns) -> Parts:
    """What all data-parallel ranks share, and experts, whose ranks are fewer: parameters, cuts, stride of neighbours."""
    dense, experts = stage_parameters(c)
    cut = shards(c)
    found = [(dense, cut, c.tp)]
    if np.any(c.experts > 0):
        replicas = np.maximum(cut.ranks * c.tp / (c.ep * c.etp), 1.0)
        few = (np.minimum(part, replicas) for part in (cut.weights, cut.gradients, cut.optimizer))
        found.append((experts, Shards(replicas, *few), c.ep * c.etp))
    return tuple(found)


def exposed(traffic: Array, window: Array, contention: float) -> Array:
    """What traffic behind `window` seconds of work still costs: the excess, and the work it slows meanwhile."""
    return np.asarray(np.maximum(traffic - window, 0.0) + contention * np.minimum(traffic, window))


def _scattered(c: Columns, h: Hardware, size: Array, ranks: Array, stride: Array) -> Array:
    group = span(ranks, stride, c.per_node, h.intra, h.node)
    return reduce_scatter(size, ranks, group.rate)
