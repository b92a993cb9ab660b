"""Intervals of predictions: how far held-out groups were off, per pattern of the run.

The half-width is a quantile of |log(predicted / measured)| over rows that were predicted without their group. Patterns
with few rows are at least as wide as all rows together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner.training.calibration.held_out import Held
from tuner.training.patterns import pattern

LEVEL = 0.9
_FEWEST_ROWS = 20
_UNSEEN = 2.0  # half-widths of patterns nobody measured, relative to the pooled one


def half_widths(rows: Sequence[Held]) -> dict[str, float]:
    """Logarithmic half-width per pattern; `other` is for patterns that are not there."""
    pooled = _quantile(rows)
    found = {"other": pooled * _UNSEEN}
    for name in sorted({pattern(held.row.case) for held in rows}):
        own = [held for held in rows if pattern(held.row.case) == name]
        found[name] = _quantile(own) if len(own) >= _FEWEST_ROWS else max(_quantile(own), pooled)
    return found


def coverage(rows: Sequence[Held]) -> list[tuple[Held, float, bool]]:
    """Every row with the half-width that the other groups give it, and whether it covers the measurement."""
    found = []
    groups = sorted({(held.table, held.group) for held in rows})
    for key in groups:
        widths = half_widths([held for held in rows if (held.table, held.group) != key])
        for held in rows:
            if (held.table, held.group) == key:
                width = widths.get(pattern(held.row.case), widths["other"])
                found.append((held, width, _miss(held) <= width))
    return found


def _miss(held: Held) -> float:
    return abs(math.log(held.predicted_s / (held.row.iteration_s or held.predicted_s)))


def _quantile(rows: Sequence[Held]) -> float:
    misses = sorted(_miss(held) for held in rows)
    # As if there were one more row, so that few rows give a wide interval.
    wanted = math.ceil(LEVEL * (len(misses) + 1))
    return misses[min(wanted, len(misses)) - 1]
