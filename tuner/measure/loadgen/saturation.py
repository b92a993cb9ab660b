"""Whether an open loop's engine falls behind for good (the rule of GuideLLM 0.8.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner.measure.loadgen.job import Saturation

# Two-sided 95 % quantile of Student's t by degrees of freedom; beyond the table the normal one is 2 % off at most.
_T95 = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
    2.18,
    2.16,
    2.14,
    2.13,
    2.12,
    2.11,
    2.10,
    2.09,
    2.09,
)
_T95_BEYOND = 2.0

Points = Sequence[tuple[float, float]]


def saturated(now_s: float, under_way: Points, ttft_s: Points, rule: Saturation) -> bool:
    """Points are (moment, value), in the order of their moments, seconds from the start."""
    if now_s < rule.after_s:
        return False
    ways, firsts = _window(under_way, now_s, rule), _window(ttft_s, now_s, rule)
    if min(len(ways), len(firsts)) < rule.points:
        return False
    slow = [value for _, value in firsts[-rule.points :]]
    return min(slow) > rule.ttft_s and surely_rising(ways, rule.margin) and surely_rising(firsts, rule.margin)


def surely_rising(points: Points, margin: float) -> bool:
    """The slope of a straight line through the points is above 0, and the half-width of its 95 % interval is less than
    the slope times `margin` and less than the slope itself."""
    n = len(points)
    mean_t = sum(t for t, _ in points) / n
    mean_v = sum(v for _, v in points) / n
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    if n < 3 or spread <= 0:
        return False
    slope = sum((t - mean_t) * (v - mean_v) for t, v in points) / spread
    rest = sum((v - mean_v - slope * (t - mean_t)) ** 2 for t, v in points)
    quantile = _T95[n - 3] if n - 3 < len(_T95) else _T95_BEYOND
    half = quantile * math.sqrt(rest / (n - 2) / spread)
    return slope > 0 and half < slope * min(margin, 1.0)


def _window(points: Points, now_s: float, rule: Saturation) -> Points:
    most = max(rule.points, int(len(points) * rule.window_share))
    return [point for point in points[-most:] if point[0] >= now_s - rule.window_s]
