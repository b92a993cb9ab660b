"""Paired windows to an interval that may be looked at after every window. Pure arithmetic on bounded sums.

The estimate is the ratio of the two weighted means, each window with one weight for both sides, and its variance is
that of a ratio (delta method). In each window both means are first divided by the mean over all its requests: a window in
which the machine was five times slower would count for five others, and its scatter with it, though the ratio is what is
asked for. Averaging the logarithm of each window's ratio instead would favour the side with fewer requests: the logarithm
of a mean of few is too low, by half its relative variance (a canary takes few).

The interval is an asymptotic confidence sequence: it holds at every look together, so that deciding as soon as it
says enough does not raise the error it states. Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central
limit theory and asymptotic confidence sequences", Annals of Statistics 52 (2024), equation of the Robbins mixture.
"""

from __future__ import annotations

import math

from controlplane.model.canary import PairSums, RatioPct
from controlplane.model.student import Z95, percent_of, t95

# A two-sided interval that holds 90 %.
_ALPHA = 0.10
# The interval is narrowest, for what it promises, at about so many windows.
_TUNED_AT = 40.0
_RHO_SQUARED = (-2 * math.log(_ALPHA) + math.log(-2 * math.log(_ALPHA)) + 1) / _TUNED_AT
# Of fewer windows the variance itself is hardly known; then the widths of Student's t are added.
LEAST_WINDOWS = 8
# A window whose means lie further apart, or of parts of a request, was counted by a broken engine; the squares of such
# figures are more than a float holds, or less.
_MOST_APART, _LEAST_WEIGHT = 1e9, 1e-3
# Nobody waits longer.
_MOST_PAIRS = 1e6


def added(before: RatioPct | None, requests: tuple[float, float], means: tuple[float, float]) -> RatioPct:
    """One window more: requests and means of the canary and of the stable revision in it. Without requests of both it
    changes nothing."""
    old = PairSums() if before is None else before.sums
    weight = weight_of(*requests)
    (canary, stable), level = means, _level(requests, means)
    if not (weight > 0 and canary > 0 and stable > 0 and 0 < level < math.inf and math.isfinite(weight)):
        return before or RatioPct()
    mine, theirs = weight * (canary / level), weight * (stable / level)
    if not (weight >= _LEAST_WEIGHT and 1 / _MOST_APART <= canary / stable <= _MOST_APART):
        return before or RatioPct()
    sums = PairSums(
        pairs=old.pairs + 1,
        w=old.w + weight,
        ww=old.ww + weight * weight,
        wc=old.wc + mine,
        ws=old.ws + theirs,
        cc=old.cc + mine * mine,
        ss=old.ss + theirs * theirs,
        cs=old.cs + mine * theirs,
    )
    change, lo, hi = interval(sums)
    return RatioPct(change=change, lo=lo, hi=hi, sums=sums)


def _level(requests: tuple[float, float], means: tuple[float, float]) -> float:
    """Mean over the requests of both."""
    total = requests[0] + requests[1]
    return (requests[0] * means[0] + requests[1] * means[1]) / total if total > 0 else 0.0


def weight_of(canary_requests: float, stable_requests: float) -> float:
    """Inverse variance of the difference of two means of so many requests."""
    total = canary_requests + stable_requests
    return canary_requests * stable_requests / total if total > 0 else 0.0


def interval(sums: PairSums) -> tuple[float | None, float | None, float | None]:
    """Change of the canary against the stable revision in %, and the ends of its interval; None: not known yet."""
    if sums.pairs < 1:
        return None, None, None
    mean = math.log(sums.wc / sums.ws)
    found = _spread(sums)
    if found is None:
        return percent_of(mean), None, None
    effective, deviation = found
    half = deviation * _width(effective)
    return percent_of(mean), percent_of(mean - half), percent_of(mean + half)


def pairs_until(sums: PairSums, bound_pct: float) -> float | None:
    """How many windows more until the interval is on one side of the bound, if difference and spread stay as they are.
    None: not known yet; infinite: the difference is the bound."""
    found = _spread(sums)
    if found is None:
        return None
    effective, deviation = found
    away = abs(math.log(sums.wc / sums.ws) - math.log1p(bound_pct / 100))
    if deviation * _width(_MOST_PAIRS) > away:
        return math.inf
    least, most = effective, max(effective, _MOST_PAIRS)
    while most - least > 0.5:
        middle = (least + most) / 2
        least, most = (least, middle) if deviation * _width(middle) <= away else (middle, most)
    return (most - effective) * sums.pairs / effective


def _spread(sums: PairSums) -> tuple[float, float] | None:
    """So many windows of equal weight, and the standard deviation of the logarithm of the ratio in one of them."""
    if sums.pairs < LEAST_WINDOWS:
        return None
    effective = sums.w * sums.w / sums.ww
    if effective < LEAST_WINDOWS / 2:
        return None
    mc, ms = sums.wc / sums.w, sums.ws / sums.w
    squares = sums.cc / (mc * mc) - 2 * sums.cs / (mc * ms) + sums.ss / (ms * ms)
    variance = max(0.0, squares) / (sums.w * sums.w) * effective / (effective - 1)
    return effective, math.sqrt(variance * effective)


def _width(n: float) -> float:
    """Half of the interval of n values, in their standard deviations."""
    mixed = n * _RHO_SQUARED
    plain = math.sqrt(2 * (mixed + 1) / (n * mixed) * math.log(math.sqrt(mixed + 1) / _ALPHA))
    return plain * t95(n - 1) / Z95


def shown_more(canary_failed: float, canary_all: float, stable_failed: float, stable_all: float) -> float | None:
    """By how many percentage points the canary at least fails more of its requests, 99 % sure of either side (Wilson's
    score interval). None: nothing ended on one side."""
    if canary_all <= 0 or stable_all <= 0:
        return None
    return 100 * (_wilson(canary_failed, canary_all)[0] - _wilson(stable_failed, stable_all)[1])


def _wilson(hits: float, total: float) -> tuple[float, float]:
    z = 2.5758
    share = min(1.0, hits / total)
    middle = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (middle - spread) / scale, (middle + spread) / scale
