"""Plots as SVG text: lines, steps, points and intervals on axes. No library, no script, no outside file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from tuner.axes import COLOURS, HEIGHT, LEFT, Axis, Floats, Frame, figure, legend, linear, logarithmic

# Points of one kind are told from another's by shape as well as by colour.
Style = Literal["line", "step", "dashed", "points", "rings", "crosses", "whiskers"]

MAX_POINTS = 1_500  # of one series: more cannot be told apart on this width
_FEW = 200  # points that are drawn large enough to be seen one by one
_SIGNS = {"points": "● ", "rings": "○ ", "crosses": "× ", "whiskers": "│ ", "dashed": "┄ "}
_MARKED = {"points", "rings", "crosses", "whiskers"}


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """`x` never falls for lines and steps; equal lengths; values that are not finite are left out. `high`: upper ends of
    whiskers, whose lower ones are `y`."""

    name: str
    x: Floats
    y: Floats
    style: Style = "line"
    high: Floats | None = None


def plot(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    log_y: bool = False,
    from_zero: bool = True,
    axes: tuple[Axis, Axis] | None = None,
    caption: str = "",
) -> str:
    """One figure, its heights from zero unless told otherwise; `axes` (across, up) instead of those that the values
    make. A plot without a finite point says so instead of showing empty axes."""
    shown = [_finite(item, log_y) for item in series]
    shown = [item for item in shown if item.x.size]
    if not shown:
        return figure(title, f'<text x="{LEFT}" y="{HEIGHT // 2}">nothing to show</text>')
    x = linear(x_label, min(s.x.min() for s in shown), max(s.x.max() for s in shown), tight=True)
    low, high = min(s.y.min() for s in shown), max((s.y if s.high is None else s.high).max() for s in shown)
    y = logarithmic(y_label, low, high) if log_y else linear(y_label, min(0.0, low) if from_zero else low, high)
    signed = any(item.style in _SIGNS and item.style != "points" for item in shown)  # more than dots to tell apart
    frame = Frame(x, y) if axes is None else Frame(*axes)
    parts = [frame.drawn()]
    for number, item in enumerate(shown):
        thin = _thinned(item)
        ends = thin.y if thin.high is None else thin.high
        parts.append(_drawn(thin.style, frame.across(thin.x), frame.up(thin.y), frame.up(ends), number % COLOURS))
    names = [f"{_SIGNS.get(item.style, '') if signed else ''}{item.name}" for item in shown]
    below = legend(names, [number % COLOURS for number in range(len(names))]) if len(shown) > 1 else ""
    return figure(title, "".join(parts), below + caption)


def _drawn(style: Style, x: Floats, y: Floats, end: Floats, number: int) -> str:
    if style == "whiskers":
        bars = "".join(f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in zip(x, y, end, strict=True))
        return f'<path class="whisker s{number}" d="{bars}"/>'
    if style in {"rings", "crosses"}:
        shape = "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0" if style == "rings" else "m-3-3l6 6m0-6l-6 6"
        marks = "".join(f"M{a:.1f} {b:.1f}{shape}" for a, b in zip(x, y, strict=True))
        return f'<path class="curve s{number}" d="{marks}"/>'
    if style == "points":
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x, y, strict=True))
        few = " few" if len(x) <= _FEW else ""
        return f'<path class="dots{few} s{number}" d="{dots}"/>'
    path = [f"M{x[0]:.1f} {y[0]:.1f}"]
    for a, b in zip(x[1:], y[1:], strict=True):
        path.append(f"H{a:.1f}V{b:.1f}" if style == "step" else f"L{a:.1f} {b:.1f}")
    dashed = " dashed" if style == "dashed" else ""
    return f'<path class="curve{dashed} s{number}" d="{"".join(path)}"/>'


def _finite(item: Series, log_y: bool) -> Series:
    keep = np.isfinite(item.x) & np.isfinite(item.y)
    if log_y:
        keep &= item.y > 0
    high = None if item.high is None else item.high[keep]
    return Series(item.name, item.x[keep], item.y[keep], item.style, high)


def _thinned(item: Series) -> Series:
    """Lowest and highest point of each stretch, so that no spike is lost; points: every n-th."""
    count = item.x.size
    if count <= MAX_POINTS:
        return item
    if item.style in _MARKED:
        chosen = np.unique(np.linspace(0, count - 1, MAX_POINTS).astype(np.int64))
        high = None if item.high is None else item.high[chosen]
        return Series(item.name, item.x[chosen], item.y[chosen], item.style, high)
    edges = np.linspace(0, count, MAX_POINTS // 2 + 1).astype(np.int64)
    kept: set[int] = {0, count - 1}
    for start, end in pairwise(edges.tolist()):
        if end > start:
            kept |= {start + int(item.y[start:end].argmin()), start + int(item.y[start:end].argmax())}
    order = np.array(sorted(kept))
    return Series(item.name, item.x[order], item.y[order], item.style)
