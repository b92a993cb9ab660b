"""What no split of layers over stages can beat, cheap enough to cut branches before anything is placed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
