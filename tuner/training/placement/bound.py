"""What no placement can beat, cheap enough to cut branches before anything is placed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tuner.training.placement.problem import StageShape

Array = NDArray[np.float64]


def lower_bounds_s(
    stages: ArrayLike, layer_s: ArrayLike, most_layers: ArrayLike, layers: ArrayLike, micro_batches: ArrayLike
) -> Array:
    """A bound per row on `sum t + (m - 1) max t + 2 hops` over all orders and splits; infinite where nothing fits.

    Columns of `stages`, `layer_s` and `most_layers` are classes (rows x classes; 0 stages: class not used), `layers`
    and `micro_batches` one value per row. Layers may be cut, hops and ends cost nothing, and sum and bottleneck are
    bounded apart, so the bound never falls when a stage is taken away, a layer gets slower, a cap shrinks, or layers
    or micro-batches are added.
    """
    count, cost, most = (np.atleast_2d(np.asarray(each, dtype=np.float64)) for each in (stages, layer_s, most_layers))
    count, cost, most = (np.asarray(each) for each in np.broadcast_arrays(count, cost, most))
    rows = count.shape[0]
    total = np.broadcast_to(np.asarray(layers, dtype=np.float64), (rows,))
    repeats = np.broadcast_to(np.asarray(micro_batches, dtype=np.float64), (rows,)) - 1.0
    most = np.maximum(most, 0.0)
    turns = np.where(repeats > 0.0, repeats, 1.0) * _least_bottleneck(count, cost, most, total)
    return np.asarray(_least_sum(count * most, cost, total) + np.where(repeats > 0.0, turns, 0.0))


def widths_bound_s(
    widths: Sequence[Sequence[StageShape]],
    nodes_per_stage: Sequence[Sequence[int]],
    nodes: Sequence[int],
    layers: int,
    micro_batches: int,
) -> tuple[float, float]:
    """Bounds on (slowest stage, whole iteration) where the number and width of stages are free: every node works at
    the pace of its best width, every layer takes the fastest width's time. Infinite where nothing holds a layer."""
    pace, fastest = 0.0, math.inf
    for ways, sizes, count in zip(widths, nodes_per_stage, nodes, strict=True):
        fit = [
            (way.layer_s, size)
            for way, size in zip(ways, sizes, strict=True)
            if size <= count and way.most_layers(1, False, False) >= 1
        ]
        if fit:
            pace += max(count // size / layer_s if len(fit) == 1 else count / size / layer_s for layer_s, size in fit)
            fastest = min(fastest, *(layer_s for layer_s, _ in fit))
    if not pace:
        return math.inf, math.inf
    # A single layer cannot be cut: no stage is faster than one of them.
    slowest = max(layers / pace, fastest)
    return slowest, layers * fastest + (micro_batches - 1) * slowest


def _least_sum(room: Array, cost: Array, total: Array) -> Array:
    """All layers on the fastest classes with room."""
    order = np.argsort(cost, axis=1, kind="stable")
    room, cost = np.take_along_axis(room, order, 1), np.take_along_axis(cost, order, 1)
    fill = np.clip(total[:, None] - (np.cumsum(room, axis=1) - room), 0.0, room)
    return np.where(fill.sum(axis=1) < total * (1.0 - 1e-12), np.inf, (fill * cost).sum(axis=1))


def _least_bottleneck(count: Array, cost: Array, most: Array, total: Array) -> Array:
    """Smallest time at which all stages together hold the layers, cut at will: stages fill at equal pace until full."""
    full = cost * most  # a stage of the class is full from here on
    order = np.argsort(full, axis=1, kind="stable")
    full, rate, room = (np.take_along_axis(each, order, 1) for each in (full, count / cost, count * most))
    held_full = np.cumsum(room, axis=1) - room  # classes full before this one is
    pace = np.cumsum(rate[:, ::-1], axis=1)[:, ::-1]  # of the classes not yet full
    with np.errstate(divide="ignore", invalid="ignore"):
        reached = np.where(pace > 0.0, (total[:, None] - held_full) / pace, np.inf)
    # The right segment is the first whose end holds all layers; before it the quotient lies above the segment's end.
    valid = reached <= full * (1.0 + 1e-12)
    first = np.argmax(valid, axis=1)[:, None]
    found = np.maximum(np.take_along_axis(reached, first, 1)[:, 0], 0.0)
    return np.where(valid.any(axis=1), found, np.inf)
