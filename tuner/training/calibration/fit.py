"""Robust least squares on logarithms of times, with priors: Gauss-Newton, deterministic, numpy only.

A constant moves only as far as the rows pull it against its prior. Rows count with a weight, so that a table of many
near copies does not outvote one of few measurements; outliers count less (Huber weights).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.model.errors import Refused
from tuner.training.columns import Array, Columns, columns
from tuner.training.constants import Constants
from tuner.training.iteration import iteration
from tuner.training.loaders.rows import Row

_NOISE = 0.06  # relative error that a good row may have
_HUBER = 1.5  # of these errors, where a row starts to count less
_STEPS = 20
_NUDGE = 1e-4
_LARGEST_STEP = 0.5


@dataclass(frozen=True, slots=True)
class Prior:
    """Where a constant is expected and how far (standard deviation of its logarithm) it may go; `most` is physical."""

    value: float
    spread: float
    most: float = float("inf")


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to fit on, as columns, with their weights."""

    columns: Columns
    seconds: Array
    weight: Array


def sample(tables: Sequence[tuple[Sequence[Row], float]], classes: Sequence[str]) -> Sample:
    """Rows of several tables; each table counts as its given number of rows. Raises Refused without usable rows."""
    rows: list[Row] = []
    weights: list[float] = []
    for table, counts in tables:
        timed = [row for row in table if row.iteration_s is not None]
        rows += timed
        weights += [counts / max(len(timed), 1)] * len(timed)
    if not rows:
        raise Refused("no rows to fit on", field="data", hint="give a folder with at least one published table")
    seconds = np.array([row.iteration_s for row in rows], dtype=np.float64)
    return Sample(columns([(row.case, 0) for row in rows], classes), seconds, np.array(weights))


def fit(data: Sample, start: Constants, priors: Mapping[str, Prior]) -> Constants:
    """Constants that explain the rows; those without a prior stay as they are."""
    names = sorted(priors)
    base = np.array([priors[name].value for name in names])
    tightness = np.array([priors[name].spread for name in names]) ** -2.0
    ceiling = np.log(np.array([priors[name].most for name in names]) / base)

    def constants(x: Array) -> Constants:
        return start.replaced(dict(zip(names, (base * np.exp(x)).tolist(), strict=True)))

    def misses(x: Array) -> Array:
        return np.asarray(np.log(iteration(data.columns, constants(x)).seconds / data.seconds) / _NOISE)

    x = np.zeros(len(names))
    for _ in range(_STEPS):
        miss = misses(x)
        slopes = np.stack([(misses(x + _NUDGE * unit) - miss) / _NUDGE for unit in np.eye(len(x))], axis=1)
        weight = data.weight / np.sqrt(1.0 + np.square(miss / _HUBER))
        curve = (slopes * weight[:, None]).T @ slopes + np.diag(tightness)
        pull = (slopes * weight[:, None]).T @ miss + tightness * x
        step = np.linalg.solve(curve + 1e-2 * np.diag(np.diag(curve)), -pull)
        x = np.minimum(x + np.clip(step, -_LARGEST_STEP, _LARGEST_STEP), ceiling)
    return constants(x)
