"""Intervals over a handful of runs, each in a process of its own: Student's t, two-sided 90 %.

A bootstrap over five runs is too narrow; requests within a run are not independent, so runs are what is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from controlplane.model.tuning_decision import Interval

# 95th percentiles of Student's t by degrees of freedom (any table); from 31 on the expansion below errs < 0.0002.
_T95 = (
    6.3138, 2.9200, 2.3534, 2.1318, 2.0150, 1.9432, 1.8946, 1.8595, 1.8331, 1.8125, 1.7959, 1.7823, 1.7709, 1.7613,
    1.7531, 1.7459, 1.7396, 1.7341, 1.7291, 1.7247, 1.7207, 1.7171, 1.7139, 1.7109, 1.7081, 1.7056, 1.7033, 1.7011,
    1.6991, 1.6973,
)  # fmt: skip
_Z95 = 1.644854


def interval_of(values: Sequence[float]) -> Interval:
    """Mean of runs and its interval. Raises ValueError without a run."""
    mean, half = _mean_and_half(values)
    if half is None:
        return Interval(mean=mean, runs=1)
    return Interval(mean=mean, lo=mean - half, hi=mean + half, runs=len(values))


def gain_of(pairs: Sequence[tuple[float, float]], *, maximize: bool) -> Interval | None:
    """Gain in % of the first over the second of each pair (geometric mean of ratios), above 0 is better. None: no pair,
    or a value that is not above 0, of which no ratio can be taken."""
    if not pairs or any(value <= 0 for pair in pairs for value in pair):
        return None
    logs = [math.log(new / old) if maximize else math.log(old / new) for new, old in pairs]
    mean, half = _mean_and_half(logs)
    if half is None:
        return Interval(mean=_percent(mean), runs=1)
    return Interval(mean=_percent(mean), lo=_percent(mean - half), hi=_percent(mean + half), runs=len(logs))


def _mean_and_half(values: Sequence[float]) -> tuple[float, float | None]:
    if not values:
        raise ValueError("no runs")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, t95(n - 1) * math.sqrt(variance / n)


def t95(freedom: int) -> float:
    """95th percentile of Student's t: half of a two-sided 90 % interval in standard errors."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    return _Z95 + (_Z95**3 + _Z95) / (4 * freedom)


def _percent(log_ratio: float) -> float:
    return 100.0 * math.expm1(log_ratio)
