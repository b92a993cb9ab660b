"""Intervals over a handful of runs, each in a process of its own: Student's t, two-sided 90 %.

A bootstrap over five runs is too narrow; requests within a run are not independent, so runs are what is counted.
Whoever looks after each round and stops when the interval excludes zero is fooled more often than one time in ten; the
interval of `gain_in_rounds` holds however often it was looked at (repeated confidence intervals, Jennison and Turnbull
1989).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from controlplane.model.student import percent_of, t95
from controlplane.model.tuning_decision import Interval

# Below, one stalled run is the interval.
ROUNDS_LEAST = 3
# A look after round n of at most N spends level a(N) * (n / N)^3: little while there is little, nearly all at the end. a(N)
# such that 90 % of 200,000 simulated normal series without a gain stay inside at every look from round 3 on. The price: a
# gain of one standard deviation is found in 77 % of 8 rounds, in 82 % with a single look at the end.
_FINAL_LEVEL = {
    3: 0.1, 4: 0.0833, 5: 0.077, 6: 0.0734, 7: 0.0713, 8: 0.0688, 10: 0.0678, 12: 0.0656, 16: 0.064, 24: 0.0623,
    32: 0.0611, 48: 0.0596, 64: 0.0592,
}  # fmt: skip


def interval_of(values: Sequence[float]) -> Interval:
    """Mean of runs and its interval. Raises ValueError without a run."""
    if not values:
        raise ValueError("no runs")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Interval(mean=mean, runs=1)
    half = t95(n - 1) * math.sqrt(_covariance(values, values) / n)
    return Interval(mean=mean, lo=mean - half, hi=mean + half, runs=n)


def gain_of(pairs: Sequence[tuple[float, float]], *, maximize: bool) -> Interval | None:
    """Gain in % of the first over the second of each pair, above 0 is better: the geometric mean of ratios, or where a
    run reached nothing the ratio of the means, by differences. None: no pair, a value below 0, or nothing that it could
    be a share of."""
    return _gain(pairs, t95(len(pairs) - 1) if len(pairs) > 1 else None, maximize=maximize)


def gain_in_rounds(
    pairs: Sequence[tuple[float, float]], *, maximize: bool, most: int, rivals: int = 1
) -> Interval | None:
    """As `gain_of`, for a comparison that is looked at after each round and ends after `most` at the latest. No ends
    before the third round. `rivals`: configurations compared at once, of which the one with the highest lower end is
    believed."""
    if len(pairs) < ROUNDS_LEAST:
        return _gain(pairs, None, maximize=maximize)
    most = max(most, len(pairs))
    final = next((level for rounds, level in _FINAL_LEVEL.items() if rounds >= most), min(_FINAL_LEVEL.values()))
    level = final * _share_of(rivals, most) * (len(pairs) / most) ** 3
    return _gain(pairs, t_beyond(level, len(pairs) - 1), maximize=maximize)


def _share_of(rivals: int, most: int) -> float:
    """Of the level, for one of `rivals`. The best of many is also the luckiest: its lower end is too high as often as any
    of theirs, its upper end hardly ever too low. Such that the interval of the one that is believed holds 90 % of 8,000 to
    20,000 simulated confirmations of 2 to 16 configurations that are all equal to the one in use, 3 to 24 rounds at most;
    without it 86 % of three in seven rounds, 64 % of sixteen."""
    return 1.0 if rivals < 2 else min(1.0, (2.0 - 2.5 / most) / rivals)


def _gain(pairs: Sequence[tuple[float, float]], t: float | None, *, maximize: bool) -> Interval | None:
    """`t`: standard errors to either end; None: no ends."""
    if not pairs or any(value < 0 for pair in pairs for value in pair):
        return None
    if not all(value > 0 for pair in pairs for value in pair):
        return _by_difference(pairs, t, maximize=maximize)
    sign = 1.0 if maximize else -1.0
    logs = [sign * (math.log(new) - math.log(old)) for new, old in pairs]
    mean = math.fsum(logs) / len(logs)
    if t is None:
        return Interval(mean=percent_of(mean), runs=len(logs))
    half = t * math.sqrt(_covariance(logs, logs) / len(logs))
    return Interval(mean=percent_of(mean), lo=percent_of(mean - half), hi=percent_of(mean + half), runs=len(logs))


def _by_difference(pairs: Sequence[tuple[float, float]], t: float | None, *, maximize: bool) -> Interval | None:
    """Of the ratio of two means that were measured in pairs, both of them uncertain (Fieller 1954): every ratio at which
    the differences of the first and so many times the second might well be 0 on average. Where the second's mean might
    be 0 itself, the ratio has no end above, and none at all where the first's might be as well. Ratios are not below 0."""
    n, top = len(pairs), max(max(pair) for pair in pairs) or 1.0
    new, old = ([pair[side] / top for pair in pairs] for side in (0, 1))  # squares of any number then are numbers
    mean_new, mean_old = math.fsum(new) / n, math.fsum(old) / n
    if mean_old <= 0:
        return None
    low, high = (None, None) if t is None else _fieller(new, old, mean_new, mean_old, t * t / n)
    mean = _percent(mean_new / mean_old)
    lo, hi = (None if end is None else _percent(end) for end in (low, high))
    if maximize:
        return Interval(mean=mean, lo=lo, hi=hi, runs=n)
    return Interval(mean=-mean, lo=None if hi is None else -hi, hi=None if lo is None else -lo, runs=n)


def _percent(ratio: float) -> float:
    return percent_of(math.log(ratio)) if ratio > 0 else -100.0


def _fieller(
    new: Sequence[float], old: Sequence[float], mean_new: float, mean_old: float, scale: float
) -> tuple[float | None, float | None]:
    """Ends of the ratios r with (mean_new - r mean_old)^2 <= scale * variance(new - r old), None where there is none."""
    a = mean_old**2 - scale * _covariance(old, old)
    b = mean_old * mean_new - scale * _covariance(old, new)
    c = mean_new**2 - scale * _covariance(new, new)
    root = math.sqrt(max(0.0, b * b - a * c))
    if a > 0:
        return max(0.0, (b - root) / a), (b + root) / a
    # Everything but what lies between two ratios; of these only the upper part is not below 0 where c is above 0.
    return ((-b + root) / -a if a < 0 else c / (2 * b), None) if c > 0 and (a < 0 or b > 0) else (None, None)


def _covariance(one: Sequence[float], other: Sequence[float]) -> float:
    """Of a sample of two or more pairs."""
    mean_one, mean_other = math.fsum(one) / len(one), math.fsum(other) / len(other)
    return math.fsum((x - mean_one) * (y - mean_other) for x, y in zip(one, other, strict=True)) / (len(one) - 1)


def t_beyond(level: float, freedom: int) -> float:
    """What Student's t of 2 or more degrees of freedom leaves with this probability, either side (Hill 1970, Algorithm
    396; 1e-5 of the exact value at most)."""
    if freedom == 2:
        return math.sqrt(2.0 / (level * (2.0 - level)) - 2.0)
    a = 1.0 / (freedom - 0.5)
    b = 48.0 / (a * a)
    c = ((20700.0 * a / b - 98.0) * a - 16.0) * a + 96.36
    d = ((94.5 / (b + c) - 3.0) / b + 1.0) * math.sqrt(a * math.pi / 2.0) * freedom
    y = (d * level) ** (2.0 / freedom)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(level / 2.0)
        y = x * x
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36.0) * y + 94.5) / c - y - 3.0) / b + 1.0) * x
        y = math.expm1(a * y * y)
    else:
        y = (
            (
                1.0 / (((freedom + 6.0) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2.0) * 3.0)
                + 0.5 / (freedom + 4.0)
            )
            * y
            - 1.0
        ) * (freedom + 1.0) / (freedom + 2.0) + 1.0 / y
    return math.sqrt(freedom * y)
