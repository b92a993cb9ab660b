"""What several runs say about two configurations or versions: faster, slower, or no evidence, with the interval.

Runs are what is counted, not requests: requests of one run share a process, a moment and a queue. Ratios are taken as
logarithms, so that twice as fast and half as fast weigh the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    return _worded(metric, gain, "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs")


def judge_apart(metric: str, new: Sequence[float], old: Sequence[float], *, maximize: bool) -> RegressionVerdict:
    """Of runs that were not interleaved (Welch's interval). A machine that changed meanwhile looks like a gain: where
    both can still be measured, take pairs."""
    found = _apart(new, old, maximize)
    gain = None if found is None else _interval(found.mean, [(found.variance, found.freedom)], min(len(new), len(old)))
    return _worded(metric, gain, f"{len(new)} and {len(old)} runs, not side by side")


def judge_by_machine(
    metric: str, parts: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, maximize: bool
) -> RegressionVerdict:
    """As `judge_apart`, of (new, old) runs of several machines: each is compared with itself alone, since machines differ
    by more than configurations do, and the machines' gains are averaged, one with more runs weighing more. The message
    has each machine's own."""
    if len(parts) == 1:
        return judge_apart(metric, *next(iter(parts.values())), maximize=maximize)
    found = {name: _apart(new, old, maximize) for name, (new, old) in parts.items()}
    known = {name: one for name, one in found.items() if one is not None}
    counts = {name: tuple(len(side) for side in sides) for name, sides in parts.items()}
    words = [f"{name}: {_percent_of(found[name])} of {n} and {m} runs" for name, (n, m) in counts.items()]
    weights = {name: 1 / (1 / counts[name][0] + 1 / counts[name][1]) for name in known}
    total = sum(weights.values())
    gain = None
    if known:
        shares = [(weights[name] / total, one) for name, one in known.items()]
        mean = sum(share * one.mean for share, one in shares)
        variances = [(share * share * one.variance, one.freedom) for share, one in shares]
        gain = _interval(mean, variances, min(sum(counts[name][side] for name in known) for side in (0, 1)))
    return _worded(metric, gain, f"{len(known)} machines, not side by side; {'; '.join(words)}")


def word_of(gain: Interval | None) -> Word:
    """What an interval of the gain allows to be said."""
    if gain is not None and gain.lo is not None and gain.lo > 0:
        return "faster"
    return "slower" if gain is not None and gain.hi is not None and gain.hi < 0 else "no evidence"


def span_of(gain: Interval, of: str) -> str:
    """`+3.1 %, 90 % interval +1.0 to +5.2 % (5 rounds)`. Of an interval with an end or two."""
    lo, hi = ("" if end is None else f"{end:+.1f}" for end in (gain.lo, gain.hi))
    span = f"{lo} to {hi} %" if lo and hi else f"above {lo} %" if lo else f"below {hi} %"
    return f"{gain.mean:+.1f} %, 90 % interval {span} ({of})"


def enough_pairs(pairs: Sequence[tuple[float, float]], *, maximize: bool, width_pct: float, most: int) -> bool:
    """Whether more pairs are not needed: the whole width of the interval is at most `width_pct`, or they are used up."""
    if len(pairs) >= most or len(pairs) < _LEAST_TO_STOP:
        return len(pairs) >= most
    gain = gain_of(pairs, maximize=maximize)
    return gain is not None and gain.lo is not None and gain.hi is not None and gain.hi - gain.lo <= width_pct


@dataclass(frozen=True, slots=True)
class _Apart:
    """Mean gain as a logarithm, the variance of that mean, and its degrees of freedom."""

    mean: float
    variance: float
    freedom: float


def _apart(new: Sequence[float], old: Sequence[float], maximize: bool) -> _Apart | None:
    """Welch's; None: too few, or values that have no logarithm."""
    if min(len(new), len(old)) < ROUNDS_LEAST or min(*new, *old) <= 0:
        return None
    sign = 1.0 if maximize else -1.0
    logs = [np.log(np.asarray(values, np.float64)) for values in (new, old)]
    parts = [(float(np.var(values, ddof=1)) / values.size, values.size - 1) for values in logs]
    return _Apart(sign * float(logs[0].mean() - logs[1].mean()), sum(part for part, _ in parts), _freedom(parts))


def _freedom(parts: Sequence[tuple[float, float]]) -> float:
    """Of a sum of variances with these degrees of freedom (Satterthwaite 1946)."""
    total = sum(part for part, _ in parts)
    scale = sum(part * part / freedom for part, freedom in parts)
    return total * total / scale if scale > 0 else sum(freedom for _, freedom in parts)


def _interval(mean: float, variances: Sequence[tuple[float, float]], runs: int) -> Interval:
    half = t95(max(1.0, _freedom(variances))) * math.sqrt(sum(part for part, _ in variances))
    lo, middle, hi = (percent_of(value) for value in (mean - half, mean, mean + half))
    return Interval(mean=middle, lo=lo, hi=hi, runs=runs)


def _percent_of(one: _Apart | None) -> str:
    return "nothing to be said" if one is None else f"{percent_of(one.mean):+.1f} %"


def _worded(metric: str, gain: Interval | None, of: str) -> RegressionVerdict:
    if gain is None or (gain.lo is None and gain.hi is None):
        return RegressionVerdict("no evidence", gain, f"{metric}: {of}: too few, or values that are not above 0")
    word = word_of(gain)
    return RegressionVerdict(word, gain, f"{word}: {metric} {span_of(gain, of)}")
