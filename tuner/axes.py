"""Axes of an SVG figure: round ticks, grid, labels, and where a value lies. Text only: no library, no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 760, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 28, 44
COLOURS = 8  # of the page


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction: its ticks and both ends. `names`: texts of the ticks where they are no numbers."""

    label: str
    ticks: Sequence[float]
    low: float
    high: float
    log: bool = False
    names: Sequence[str] = ()

    def share(self, values: Floats) -> Floats:
        """Where values lie between the ends, 0 to 1."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            return (np.log10(values) - low) / (high - low)
        return (values - self.low) / (self.high - self.low)

    def name(self, index: int) -> str:
        """Text of one tick."""
        return escape(self.names[index]) if self.names else tick_label(self.ticks[index])


@dataclass(frozen=True, slots=True)
class Frame:
    """Both axes of one figure and its height in pixels."""

    x: Axis
    y: Axis
    height: int = HEIGHT

    def across(self, values: Floats) -> Floats:
        """Pixels from the left."""
        return LEFT + self.x.share(values) * (WIDTH - LEFT - RIGHT)

    def up(self, values: Floats) -> Floats:
        """Pixels from the top; larger values lie higher."""
        return self.height - BOTTOM - self.y.share(values) * (self.height - TOP - BOTTOM)

    def drawn(self) -> str:
        """Grid, ticks and labels."""
        parts = []
        floor = self.height - BOTTOM
        for index, x in enumerate(self.across(np.array(self.x.ticks, dtype=np.float64))):
            parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{floor}"/>')
            parts.append(
                f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{floor + 15}">{self.x.name(index)}</text>'
            )
        for index, y in enumerate(self.up(np.array(self.y.ticks, dtype=np.float64))):
            parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
            parts.append(
                f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{y + 4:.1f}">{self.y.name(index)}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text class="axis" text-anchor="middle" x="{middle}" y="{self.height - 8}">{escape(self.x.label)}</text>'
        )
        parts.append(
            f'<text class="axis" text-anchor="middle" transform="translate(14 {(floor + TOP) / 2}) rotate(-90)">'
            f"{escape(self.y.label)}</text>"
        )
        return "".join(parts)


def figure(title: str, body: str, caption: str = "", height: int = HEIGHT) -> str:
    """One figure with its title; `body` is SVG, `caption` HTML."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">'
        f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>{body}</svg>{below}</figure>'
    )


def legend(names: Sequence[str], numbers: Sequence[int] | None = None) -> str:
    """Names in the colours of their series, numbered as they stand unless told."""
    places = range(len(names)) if numbers is None else numbers
    return " ".join(f'<span class="s{place}">{escape(name)}</span>' for place, name in zip(places, names, strict=True))


def linear(label: str, low: float, high: float, *, tight: bool = False) -> Axis:
    """An axis with round ticks around [low, high]; `tight`: its ends are the data's own."""
    if high <= low == 0.0:
        high = 1.0  # nothing but zeros: counts and shares do not go below
    elif high <= low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(nice * power for nice in (1.0, 2.0, 5.0, 10.0) if nice * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    if tight:
        return Axis(label, [tick for tick in ticks if low <= tick <= high], low, high)
    return Axis(label, ticks, ticks[0], ticks[-1])


def logarithmic(label: str, low: float, high: float) -> Axis:
    """An axis with a tick at each power of ten."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    ticks = [10.0**number for number in range(first, last + 1)]
    return Axis(label, ticks, ticks[0], ticks[-1], log=True)


def tick_label(value: float) -> str:
    """A number as short as it goes."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):g}{unit}"
    return f"{value:.6g}"
