"""Where to look: a covering start, and points around good ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tuner.search.space import Rows, Space

Floats = npt.NDArray[np.float64]

_DESIGNS = 32
_TRIES = 64


def covering(space: Space, n: int, seed: int) -> Rows:
    """`n` allowed points, one in each n-th of every axis as far as rules let them (Latin hypercube; the one of several
    whose nearest points lie farthest apart)."""
    rng = np.random.default_rng((seed, 0x57A27))
    best: tuple[float, Floats] | None = None
    for _ in range(_DESIGNS):
        strata = np.stack([rng.permutation(n) for _ in space.axes], axis=1)
        points = (strata + rng.random(strata.shape)) / n
        rows = space.rows_of_points(points)
        apart = np.sqrt(((points[:, None, :] - points[None, :, :]) ** 2).sum(axis=2)) + np.eye(n) * 9
        score = float(np.min(apart)) + float(np.count_nonzero(space.allowed(rows)))
        if best is None or score > best[0]:
            best = score, points
    assert best is not None
    points = best[1]
    allowed = space.allowed(space.rows_of_points(points))
    if not allowed.all():
        points = np.where(allowed[:, None], points, space.draw(rng, n).unit)
    return space.rows_of_points(points)


def around(
    space: Space, rng: np.random.Generator, rows: Rows, which: npt.NDArray[np.int64], n: int, width: float = 0.12
) -> Rows:
    """Up to `n` allowed points near rows `which`: each moves along some axes, at least one; choices change at random."""
    parents = rows.unit[which[rng.integers(0, len(which), 2 * n)]]
    moves = rng.random(parents.shape) < max(0.34, 1.0 / parents.shape[1])
    moves[np.arange(len(parents)), rng.integers(0, parents.shape[1], len(parents))] = True
    near = parents + rng.normal(0.0, width, parents.shape)
    jump = rng.random(parents.shape)
    words = np.array([(axis.kind == "choice" and axis.scale is None) or axis.size <= 3 for axis in space.axes])
    points = np.where(moves, np.where(words, jump, near), parents)
    found = space.rows_of_points(np.clip(points, 0.0, 1.0))
    allowed = np.flatnonzero(space.allowed(found))[:n]
    return space.rows_of_points(found.unit[allowed])
