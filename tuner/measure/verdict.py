"""What several runs say about two configurations or versions: faster, slower, or no evidence, with the interval.

Runs are what is counted, not requests: requests of one run share a process, a moment and a queue. Ratios are taken as
logarithms, so that twice as fast and half as fast weigh the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from controlplane.model.student import percent_of, t95
from controlplane.model.tuning_decision import Interval
from tuner.intervals import ROUNDS_LEAST, gain_of

Word = Literal["faster", "slower", "no evidence"]

# Stopping at the first narrow interval favours the ones that are narrow by chance, the more the fewer pairs there are.
_LEAST_TO_STOP = 8


@dataclass(frozen=True, slots=True)
class RegressionVerdict:
    """`gain_pct`: of the new over the old, above 0 is better, with its 90 % interval; None where nothing can be said."""

    word: Word
    gain_pct: Interval | None
    message: str


def judge_pairs(metric: str, pairs: Sequence[tuple[float, float]], *, maximize: bool) -> RegressionVerdict:
    """Of (new, old) measured side by side with the same requests: what slows the machine slows both."""
    gain = gain_of(pairs, maximize=maximize) if len(pairs) >= ROUNDS_LEAST else None
    return _worded(metric, gain, f"{len(pairs)} pairs")


def judge_apart(metric: str, new: Sequence[float], old: Sequence[float], *, maximize: bool) -> RegressionVerdict:
    """Of runs that were not interleaved (Welch's interval). A machine that changed meanwhile looks like a gain: where
    both can still be measured, take pairs."""
    return _worded(metric, _welch(new, old, maximize), f"{len(new)} and {len(old)} runs, not side by side")


def word_of(gain: Interval | None) -> Word:
    """What an interval of the gain allows to be said."""
    if gain is None or gain.lo is None or gain.hi is None:
        return "no evidence"
    return "faster" if gain.lo > 0 else "slower" if gain.hi < 0 else "no evidence"


def span_of(gain: Interval, of: str) -> str:
    """`+3.1 %, 90 % interval +1.0 to +5.2 % (5 rounds)`. Of an interval with ends."""
    return f"{gain.mean:+.1f} %, 90 % interval {gain.lo:+.1f} to {gain.hi:+.1f} % ({of})"


def enough_pairs(pairs: Sequence[tuple[float, float]], *, maximize: bool, width_pct: float, most: int) -> bool:
    """Whether more pairs are not needed: the whole width of the interval is at most `width_pct`, or they are used up."""
    if len(pairs) >= most or len(pairs) < _LEAST_TO_STOP:
        return len(pairs) >= most
    gain = gain_of(pairs, maximize=maximize)
    return gain is not None and gain.lo is not None and gain.hi is not None and gain.hi - gain.lo <= width_pct


def _welch(new: Sequence[float], old: Sequence[float], maximize: bool) -> Interval | None:
    if min(len(new), len(old)) < ROUNDS_LEAST or min(*new, *old) <= 0:
        return None
    sign = 1.0 if maximize else -1.0
    logs = [np.log(np.asarray(values, np.float64)) for values in (new, old)]
    parts = [float(np.var(values, ddof=1)) / values.size for values in logs]
    mean = sign * float(logs[0].mean() - logs[1].mean())
    total = sum(parts)
    scale = sum(part * part / (values.size - 1) for part, values in zip(parts, logs, strict=True))
    freedom = max(1, math.floor(total * total / scale)) if scale > 0 else len(new) + len(old) - 2
    half = t95(freedom) * math.sqrt(total)
    lo, middle, hi = (percent_of(value) for value in (mean - half, mean, mean + half))
    return Interval(mean=middle, lo=lo, hi=hi, runs=min(len(new), len(old)))


def _worded(metric: str, gain: Interval | None, of: str) -> RegressionVerdict:
    if gain is None or gain.lo is None:
        return RegressionVerdict("no evidence", gain, f"{metric}: {of}: too few, or values that are not above 0")
    word = word_of(gain)
    return RegressionVerdict(word, gain, f"{word}: {metric} {span_of(gain, of)}")
