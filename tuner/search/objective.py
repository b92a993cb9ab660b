"""Objective values as one score to maximise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from controlplane.model.tuning import Objective, Told

Floats = npt.NDArray[np.float64]

_AUGMENT = 0.05


def weights_of(objectives: int, rng: np.random.Generator | None) -> Floats:
    """Weights of several objectives: drawn anew for each ask, so that the whole front is searched (ParEGO, Knowles
    2006); even without `rng`."""
    if objectives == 1 or rng is None:
        return np.full(objectives, 1.0 / objectives)
    return rng.dirichlet(np.ones(objectives))


def scores_of(measured: Sequence[Told], objectives: Sequence[Objective], weights: Floats) -> Floats:
    """(n,), higher is better. Positive objectives count by their logarithm: a gain of a percent is the same everywhere.
    Several are joined by the augmented Chebyshev distance from the best of each."""
    values = np.array([told.values[: len(objectives)] for told in measured], np.float64)
    columns = []
    for j, objective in enumerate(objectives):
        column = values[:, j]
        column = np.log(column) if (column > 0).all() else column / max(float(np.abs(column).max()), 1e-12)
        columns.append(column if objective.direction == "maximize" else -column)
    scores = np.stack(columns, axis=1)
    if scores.shape[1] == 1:
        return scores[:, 0]
    spread = np.maximum(np.ptp(scores, axis=0), 1e-9)
    short = (scores.max(axis=0) - scores) / spread * weights
    return np.asarray(-short.max(axis=1) - _AUGMENT * short.sum(axis=1), np.float64)
