"""Where to put the knots of a table: geometric to begin with, then halved where a straight line misses a point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Function = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Line:
    """What to follow, the time of which its misses are a share (both in ms), and how far to follow it."""

    value: Function
    whole: Function
    last: int


def refined(lines: Sequence[Line], base: Sequence[int], *, share: float, most: int, closest: float = 1.0) -> list[int]:
    """Knots so that on each line straight interpolation misses by at most `share` at the points tried.

    The intervals with the largest misses are halved first, up to `most` knots; intervals whose ends are within the
    factor `closest` are left, so that a jump does not eat the knots.
    """
    memo: list[dict[int, float]] = [{} for _ in lines]
    knots = sorted(set(base))
    waiting = [(_miss(lines, memo, a, b), a, b) for a, b in pairwise(knots)]
    while len(knots) < most:
        waiting = sorted(
            (item for item in waiting if item[0] > share and item[2] > closest * item[1]),
            key=lambda item: (-item[0], item[1]),
        )
        if not waiting:
            break
        halved, waiting = waiting[: most - len(knots)], waiting[most - len(knots) :]
        for _, a, b in halved:
            middle = _middle(a, b)
            knots.append(middle)
            waiting += [(_miss(lines, memo, *part), *part) for part in ((a, middle), (middle, b))]
    return sorted(knots)


def geometric(first: int, last: int, ratio: float) -> list[int]:
    """Whole numbers from `first` to `last`, each at most `ratio` times the one before (or one more)."""
    count = max(1, math.ceil(math.log(last / first) / math.log(ratio)))
    return sorted({round(first * (last / first) ** (i / count)) for i in range(count + 1)})


def _middle(a: int, b: int) -> int:
    """Geometric middle while the interval is wide, arithmetic when it is narrow."""
    return round(math.sqrt(a * b)) if b > 2 * a > 0 else (a + b) // 2


def _tried(a: int, b: int) -> list[int]:
    if b - a < 2:
        return []
    middle = _middle(a, b)
    points = {middle}
    if b - a >= 8:
        points |= {(a + middle) // 2, (middle + b) // 2, a + 1, b - 1}
    return sorted(points - {a, b})


def _miss(lines: Sequence[Line], memo: list[dict[int, float]], a: int, b: int) -> float:
    """Largest distance from the straight line, as a share of the time it belongs to."""
    points = _tried(a, b)
    worst = 0.0
    for line, known in zip(lines, memo, strict=True):
        if not points or b > line.last:
            continue
        for x in (a, b, *points):
            if x not in known:
                known[x] = line.value(x)
        slope = (known[b] - known[a]) / (b - a)
        for x in points:
            worst = max(worst, abs(known[a] + slope * (x - a) - known[x]) / max(line.whole(x), 1e-9))
    return worst
