"""Error figures: relative errors of predictions, rank correlation with average ranks for ties, regret."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tuner.training.columns import Array

_RESAMPLES = 2000
_SEED = 20230


def errors(predicted: Sequence[float] | Array, measured: Sequence[float] | Array) -> dict[str, float | int]:
    """n, mean and median absolute error, 90th percentile, bias; percent, error = predicted / measured - 1."""
    error = 100.0 * (np.asarray(predicted) / np.asarray(measured) - 1.0)
    size = np.abs(error)
    return {
        "n": len(error),
        "mape_pct": round(float(size.mean()), 3),
        "median_pct": round(float(np.median(size)), 3),
        "p90_pct": round(float(np.quantile(size, 0.9)), 3),
        "bias_pct": round(float(error.mean()), 3),
    }


def by_group(predicted: Array, measured: Array, groups: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """The error figures of every group."""
    labels = np.array(groups)
    return {name: errors(predicted[labels == name], measured[labels == name]) for name in sorted(set(groups))}


def spearman(left: Array, right: Array) -> float | None:
    """Rank correlation; ties share their average rank. None where one side does not vary."""
    a, b = _ranks(left), _ranks(right)
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def ranking(predicted: Array, measured: Array) -> dict[str, Any]:
    """Spearman with its bootstrap interval, and the regret of taking the plan predicted best (finite trials only)."""
    chance = np.random.default_rng(_SEED)
    drawn = [
        value
        for _ in range(_RESAMPLES)
        if (value := spearman(predicted[pick := chance.integers(0, len(measured), len(measured))], measured[pick]))
        is not None
    ]
    whole = spearman(predicted, measured)
    return {
        "n": len(measured),
        "spearman": None if whole is None else round(whole, 4),
        "spearman_95": [round(float(np.quantile(drawn, q)), 4) for q in (0.025, 0.975)] if drawn else None,
        "regret_pct": round(100.0 * float(measured[np.argmin(predicted)] / measured.min() - 1.0), 3),
    }


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0 - 0.5)[inverse])
