"""Plots as SVG text: axes, lines, steps and points. No library, no script, no outside file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Style = Literal["line", "step", "points"]

WIDTH, HEIGHT = 760, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 28, 44
MAX_POINTS = 1_500  # of one series: more cannot be told apart on this width


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """`x` never falls for lines and steps; equal lengths; values that are not finite are left out."""

    name: str
    x: Floats
    y: Floats
    style: Style = "line"


def plot(title: str, x_label: str, y_label: str, series: Sequence[Series], *, log_y: bool = False) -> str:
    """One figure. A plot without a finite point says so instead of showing empty axes."""
    shown = [_finite(item, log_y) for item in series]
    shown = [item for item in shown if item.x.size]
    head = (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>'
    )
    if not shown:
        return head + f'<text x="{_LEFT}" y="{HEIGHT // 2}">nothing to show</text></svg></figure>'
    x_ticks, x_low, x_high = _ticks(min(s.x.min() for s in shown), max(s.x.max() for s in shown), tight=True)
    low, high = min(s.y.min() for s in shown), max(s.y.max() for s in shown)
    y_ticks, y_low, y_high = _log_ticks(low, high) if log_y else _ticks(min(0.0, low), high)

    def across(values: Floats) -> Floats:
        return _LEFT + (values - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)

    def up(values: Floats) -> Floats:
        scaled, bottom, top = (
            (np.log10(values), math.log10(y_low), math.log10(y_high)) if log_y else (values, y_low, y_high)
        )
        return HEIGHT - _BOTTOM - (scaled - bottom) / (top - bottom) * (HEIGHT - _TOP - _BOTTOM)

    parts = [head]
    for tick in x_ticks:
        x = float(across(np.array([tick]))[0])
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{HEIGHT - _BOTTOM}"/>')
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{HEIGHT - _BOTTOM + 15}">{_label(tick)}</text>'
        )
    for tick in y_ticks:
        y = float(up(np.array([tick]))[0])
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{_label(tick)}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis" text-anchor="middle" x="{middle}" y="{HEIGHT - 8}">{escape(x_label)}</text>')
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(14 {(HEIGHT - _BOTTOM + _TOP) / 2}) rotate(-90)">'
        f"{escape(y_label)}</text>"
    )
    for number, item in enumerate(shown):
        thin = _thinned(item)
        parts.append(_drawn(thin.style, across(thin.x), up(thin.y), number))
    parts.append("</svg>")
    if len(shown) > 1:
        names = "".join(f'<span class="s{number}">{escape(item.name)}</span>' for number, item in enumerate(shown))
        parts.append(f"<figcaption>{names}</figcaption>")
    return "".join(parts) + "</figure>"


def _drawn(style: Style, x: Floats, y: Floats, number: int) -> str:
    if style == "points":
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x, y, strict=True))
        return f'<path class="dots s{number}" d="{dots}"/>'
    path = [f"M{x[0]:.1f} {y[0]:.1f}"]
    for a, b in zip(x[1:], y[1:], strict=True):
        path.append(f"H{a:.1f}V{b:.1f}" if style == "step" else f"L{a:.1f} {b:.1f}")
    return f'<path class="curve s{number}" d="{"".join(path)}"/>'


def _finite(item: Series, log_y: bool) -> Series:
    keep = np.isfinite(item.x) & np.isfinite(item.y)
    if log_y:
        keep &= item.y > 0
    return Series(item.name, item.x[keep], item.y[keep], item.style)


def _thinned(item: Series) -> Series:
    """Lowest and highest point of each stretch, so that no spike is lost; points: every n-th."""
    count = item.x.size
    if count <= MAX_POINTS:
        return item
    if item.style == "points":
        chosen = np.unique(np.linspace(0, count - 1, MAX_POINTS).astype(np.int64))
        return Series(item.name, item.x[chosen], item.y[chosen], item.style)
    edges = np.linspace(0, count, MAX_POINTS // 2 + 1).astype(np.int64)
    kept: set[int] = {0, count - 1}
    for start, end in pairwise(edges.tolist()):
        if end > start:
            kept |= {start + int(item.y[start:end].argmin()), start + int(item.y[start:end].argmax())}
    order = np.array(sorted(kept))
    return Series(item.name, item.x[order], item.y[order], item.style)


def _ticks(low: float, high: float, *, tight: bool = False) -> tuple[list[float], float, float]:
    """Round values around [low, high], and the ends of the axis; `tight`: which are then the data's own."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(nice * power for nice in (1.0, 2.0, 5.0, 10.0) if nice * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    if tight:
        return [tick for tick in ticks if low <= tick <= high], low, high
    return ticks, ticks[0], ticks[-1]


def _log_ticks(low: float, high: float) -> tuple[list[float], float, float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    ticks = [10.0**number for number in range(first, last + 1)]
    return ticks, ticks[0], ticks[-1]


def _label(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):g}{unit}"
    return f"{value:.6g}"
