"""What no placement can beat, cheap enough to cut branches before anything is placed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tuner.training.placement.problem import Width

Array = NDArray[np.float64]


def lower_bounds_s(
    stages: ArrayLike, layer_s: ArrayLike, most_layers: ArrayLike, layers: ArrayLike, micro_batches: ArrayLike
) -> Array:
    """A bound per row on `sum t + (m - 1) max t + 2 hops` over all orders and splits; infinite where nothing fits.

    Columns of `stages`, `layer_s` and `most_layers` are classes (rows x classes; 0 stages: class not used), `layers`
    and `micro_batches` one value per row. It is the placement with layers that may be cut and hops and ends for
    nothing, so it never falls when a stage is taken away, a layer gets slower, a cap shrinks, or layers or
    micro-batches are added.
    """
    count, cost, most = (np.atleast_2d(np.asarray(each, dtype=np.float64)) for each in (stages, layer_s, most_layers))
    count, cost, most = (np.asarray(each) for each in np.broadcast_arrays(count, cost, most))
    order = np.argsort(cost, axis=1, kind="stable")
    count, cost, most = (np.take_along_axis(each, order, 1) for each in (count, cost, np.maximum(most, 0.0)))
    rows, kinds = count.shape
    total = np.broadcast_to(np.asarray(layers, dtype=np.float64), (rows,))
    repeats = np.broadcast_to(np.asarray(micro_batches, dtype=np.float64), (rows,)) - 1.0
    least = least_bottleneck(count, cost, most, total)
    # The sum falls piecewise linearly and convexly with the bottleneck: its kinks are where the fastest classes alone
    # begin to suffice and where a class is full, so the cheapest bottleneck is one of those or the least of all.
    alone = [least_bottleneck(count * (np.arange(kinds) < n), cost, most, total) for n in range(1, kinds)]
    kinks = np.stack([least, *alone, *(cost * most).T], axis=1)
    slowest = np.maximum(np.where(np.isfinite(kinks), kinks, least[:, None]), least[:, None])
    fits = np.isfinite(least)
    slowest = np.where(fits[:, None], slowest, 0.0)
    room = count[:, None, :] * np.minimum(most[:, None, :], slowest[:, :, None] / cost[:, None, :])
    fill = np.clip(total[:, None, None] - (np.cumsum(room, axis=2) - room), 0.0, room)
    time = (fill * cost[:, None, :]).sum(axis=2) + repeats[:, None] * slowest
    return np.asarray(np.where(fits, time.min(axis=1), np.inf))


def widths_bound_s(
    widths: Sequence[Sequence[Width]], nodes: Sequence[int], layers: int, micro_batches: int
) -> tuple[float, float]:
    """Bounds on (slowest stage, whole iteration) where the number and width of stages are free: every node works at
    the pace of its class's best width, every layer takes the time of its fastest. Infinite where nothing holds a
    layer."""
    paces, times = [], []
    for ways, count in zip(widths, nodes, strict=True):
        fit = [way for way in ways if way.nodes <= count and way.most_layers(1, False, False) >= 1]
        if fit:
            whole = len(fit) == 1  # one width alone leaves a remainder of nodes idle
            paces.append(max((count // w.nodes if whole else count / w.nodes) / w.layer_s for w in fit))
            times.append(min(way.layer_s for way in fit))
    if not paces:
        return math.inf, math.inf
    stages = [pace * time for pace, time in zip(paces, times, strict=True)]
    bound = float(lower_bounds_s([stages], [times], [[float(layers)] * len(times)], layers, micro_batches)[0])
    # No stage takes less than one layer.
    slowest = max(layers / math.fsum(paces), min(times))
    return slowest, max(bound, layers * min(times) + (micro_batches - 1) * slowest)


def least_bottleneck(count: Array, cost: Array, most: Array, total: Array) -> Array:
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
