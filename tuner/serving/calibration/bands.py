"""Intervals from errors on runs that the fit had not seen: quantiles by tier, distance and metric, with a floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from controlplane.model.plans import Tier
from tuner.serving.calibration.parameters import DISTANCES, METRICS, Band, Distance, Metric

COVERAGE = 0.90
LEAST_ROWS, LEAST_GROUPS = 20, 3  # behind a band of its own; fewer borrow one and widen it
# How much wider (in ln) a borrowed band is, where the source of step times is weaker than any that was measured enough.
_TIER_WIDENING = {
    "measured": 1.0, "measured-bf16-attention": 1.25, "calibrated": 1.0, "sibling": 1.25, "borrowed": 1.4, "roofline": 2.0,
}  # fmt: skip
_DISTANCE_WIDENING: dict[Distance, float] = {"known": 1.0, "known-model": 1.0, "known-engine": 1.15, "unknown": 1.4}


@dataclass(frozen=True, slots=True)
class Residual:
    """ln(measured / predicted) of a run that the fit had not seen; `group` is what was left out with it."""

    tier: str
    distance: Distance
    group: tuple[str, ...]
    values: Mapping[Metric, float]


def bands_of(residuals: Sequence[Residual], coverage: float = COVERAGE) -> list[Band]:
    """A band for every tier, distance and metric. Where too few runs or groups stand behind one it takes the quantiles
    of all runs at its distance (failing that, of all), widened by its tier and distance. Farther is never narrower."""
    found = []
    for tier in get_args(Tier):
        for metric in METRICS:
            lo, hi = 0.0, 0.0
            for distance in DISTANCES:
                low, high, rows = _quantiles(residuals, tier, distance, metric, coverage)
                lo, hi = min(lo, low), max(hi, high)
                bounds = {"lo": round(float(np.exp(lo)), 4), "hi": round(float(np.exp(hi)), 4)}
                found.append(Band(tier=tier, distance=distance, metric=metric, rows=rows, **bounds))
    return found


def _quantiles(
    residuals: Sequence[Residual], tier: str, distance: Distance, metric: Metric, coverage: float
) -> tuple[float, float, int]:
    own = [item for item in residuals if item.tier == tier and item.distance == distance]
    if len(own) >= LEAST_ROWS and len({item.group for item in own}) >= LEAST_GROUPS:
        low, high = _bounds(own, metric, coverage)
        return low, high, len(own)
    near = [item for item in residuals if item.distance == distance]
    widening = _TIER_WIDENING[tier]
    if len(near) < LEAST_ROWS or len({item.group for item in near}) < LEAST_GROUPS:
        near = [item for item in residuals if item.distance != "known"] or list(residuals)
        widening *= _DISTANCE_WIDENING[distance]
    if not near:
        raise ValueError("no residuals to take quantiles of")
    low, high = _bounds(near, metric, coverage)
    return low * widening, high * widening, 0


def _bounds(items: Sequence[Residual], metric: Metric, coverage: float) -> tuple[float, float]:
    """Both tails, with the finite-sample correction of split conformal prediction; the prediction stays inside."""
    values = np.array([item.values[metric] for item in items])
    tail = (1 - coverage) / 2
    level = min(1.0, (1 - tail) * (1 + 1 / values.size))
    high, low = float(np.quantile(values, level)), float(np.quantile(values, 1 - level))
    return min(low, 0.0), max(high, 0.0)
