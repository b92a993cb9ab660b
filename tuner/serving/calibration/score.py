"""How good predictions are: errors, coverage and intervals of a set of measured rows.

An error is |predicted / measured - 1|. A row without an answer never vanishes: it counts against the coverage, and in
the quantiles that say so it counts as infinitely wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import numpy as np

NOMINAL_INTERVAL_PCT = 90.0  # what `lo` and `hi` of an answer promise


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured latency and what was predicted for it. `predicted` None: no answer. `labels` are what scores are
    grouped by (tier, backend, system, model, ...)."""

    measured: float
    predicted: float | None
    lo: float | None = None
    hi: float | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def label(self, name: str) -> str:
        """Empty where the point does not carry it."""
        return dict(self.labels).get(name, "")

    @property
    def error(self) -> float:
        """Share of the measured value; infinite without an answer."""
        return math.inf if self.predicted is None else abs(self.predicted / self.measured - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalScore:
    """Of the answered rows with an interval: how many truths lie inside, and how wide it is.

    `low_pct` and `high_pct` bound the true coverage with 95 % confidence (Wilson's binomial interval; rows of one
    configuration are not independent, so the real uncertainty is larger). Half-widths are (hi - lo) / 2 over the
    predicted value.
    """

    n: int
    inside_pct: float
    low_pct: float
    high_pct: float
    half_width_median_pct: float
    half_width_p90_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Errors in percent. None: no row to tell from. `*_missed_pct` count rows without an answer as infinite."""

    rows: int
    answered: int
    coverage_pct: float | None
    mape_pct: float | None
    median_pct: float | None
    p90_pct: float | None
    bias: float | None  # geometric mean of predicted / measured
    within_20_pct: float | None  # share of all rows
    median_missed_pct: float | None
    p90_missed_pct: float | None
    interval: IntervalScore | None


def score(points: Iterable[Point]) -> Score:
    """Over all points given; an empty set has only its zero counts."""
    items = list(points)
    answered = [point for point in items if point.predicted is not None]
    errors = np.array([point.error for point in answered]) * 100.0
    everything = np.array(sorted(point.error for point in items)) * 100.0
    logs = [math.log(point.predicted / point.measured) for point in answered if point.predicted and point.predicted > 0]
    return Score(
        rows=len(items),
        answered=len(answered),
        coverage_pct=100.0 * len(answered) / len(items) if items else None,
        mape_pct=float(errors.mean()) if answered else None,
        median_pct=float(np.median(errors)) if answered else None,
        p90_pct=float(np.quantile(errors, 0.9)) if answered else None,
        bias=math.exp(sum(logs) / len(logs)) if logs else None,
        within_20_pct=100.0 * float((everything <= 20.0).mean()) if items else None,
        median_missed_pct=_upper_quantile(everything, 0.5),
        p90_missed_pct=_upper_quantile(everything, 0.9),
        interval=score_intervals(answered),
    )


def score_intervals(points: Iterable[Point]) -> IntervalScore | None:
    """Of the points that have a prediction with both bounds; None without any."""
    inside, halves = 0, []
    for point in points:
        if point.predicted is None or point.lo is None or point.hi is None or point.predicted <= 0:
            continue
        inside += point.lo <= point.measured <= point.hi
        halves.append((point.hi - point.lo) / 2.0 / point.predicted * 100.0)
    if not halves:
        return None
    low, high = wilson(inside, len(halves))
    return IntervalScore(
        n=len(halves),
        inside_pct=100.0 * inside / len(halves),
        low_pct=100.0 * low,
        high_pct=100.0 * high,
        half_width_median_pct=float(np.median(halves)),
        half_width_p90_pct=float(np.quantile(halves, 0.9)),
    )


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a binomial share (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def by_label(points: Iterable[Point], name: str) -> dict[str, Score]:
    """One score for each value of a label, in the order of the values."""
    return {key: score(group) for key, group in _groups(points, lambda point: point.label(name)).items()}


def macro_median_pct(points: Iterable[Point], names: Sequence[str] = ("backend", "system", "model")) -> float | None:
    """Median over groups of each group's median error, so that the model with most rows does not decide it. A group
    counts as missed when most of its rows have no answer."""
    groups = _groups(points, lambda point: "\0".join(point.label(name) for name in names))
    medians = [median(point.error * 100.0 for point in group) for group in groups.values()]
    return _finite(median(medians)) if medians else None


def _groups(points: Iterable[Point], key: Callable[[Point], str]) -> dict[str, list[Point]]:
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    return dict(sorted(groups.items()))


def _upper_quantile(ordered: np.ndarray[tuple[int, ...], np.dtype[np.float64]], share: float) -> float | None:
    """The smallest value that `share` of the values do not exceed: infinities make interpolation meaningless."""
    if not ordered.size:
        return None
    return _finite(float(ordered[min(ordered.size - 1, math.ceil(share * ordered.size) - 1)]))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
