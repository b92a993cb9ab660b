"""Bars as SVG text: stacked parts of a whole, and a Gantt picture of who does what when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tuner.axes import COLOURS, HEIGHT, LEFT, RIGHT, WIDTH, Axis, Floats, Frame, figure, legend, linear

_GAP = 0.25  # of a bar's width, between bars
_GANTT_ROW, _GANTT_MOST = 22, 640  # pixels: of a row, and of the picture
_MARGINS = 28 + 44
MAX_BARS = 256


def stacked(
    title: str, x_label: str, y_label: str, names: Sequence[str], parts: Mapping[str, Floats], *, limit: Floats | None
) -> str:
    """One bar per name, made of the parts in their order; `limit`: a line across each bar. Parts that are nothing
    everywhere are left out, and the others keep the colours of their places."""
    colours = _colours(parts)
    shown = {name: values for name, values in parts.items() if np.any(values > 0)}
    if not shown or len(names) > MAX_BARS:
        return figure(title, f'<text x="{LEFT}" y="{HEIGHT // 2}">nothing to show</text>')
    total = np.sum(list(shown.values()), axis=0)
    top = float(max(total.max(), 0.0 if limit is None else limit.max()))
    every = max(1, -(-len(names) // 32))
    ticks = list(range(0, len(names), every))
    x = Axis(x_label, ticks, -0.5, len(names) - 0.5, names=[names[index] for index in ticks])
    frame = Frame(x, linear(y_label, 0.0, top))
    places = np.arange(len(names), dtype=np.float64)
    left, right = frame.across(places - 0.5 + _GAP / 2), frame.across(places + 0.5 - _GAP / 2)
    pieces, below = [frame.drawn()], np.zeros(len(names))
    for name, values in shown.items():
        low, high = frame.up(below), frame.up(below + values)
        path = "".join(
            f"M{a:.1f} {y1:.1f}H{b:.1f}V{y2:.1f}H{a:.1f}z" for a, b, y1, y2 in zip(left, right, low, high, strict=True)
        )
        pieces.append(f'<path class="fill s{colours[name]}" d="{path}"/>')
        below = below + values
    if limit is not None:
        heights = frame.up(limit)
        path = "".join(f"M{a:.1f} {y:.1f}H{b:.1f}" for a, b, y in zip(left, right, heights, strict=True))
        pieces.append(f'<path class="limit" d="{path}"/>')
    return figure(title, "".join(pieces), legend(list(shown), [colours[name] for name in shown]))


def _colours(parts: Iterable[str]) -> dict[str, int]:
    """Of every part by its place, whatever else there is to show."""
    return {name: place % COLOURS for place, name in enumerate(parts)}


def gantt(
    title: str, x_label: str, y_label: str, rows: Sequence[str], bars: Mapping[str, Sequence[tuple[int, float, float]]],
    caption: str = "",
) -> str:  # fmt: skip
    """One row per name, first on top; `bars`: by kind, (row, start, end)."""
    colours = _colours(bars)
    shown = {kind: items for kind, items in bars.items() if items}
    if not shown or len(rows) > MAX_BARS:
        return figure(title, f'<text x="{LEFT}" y="{HEIGHT // 2}">nothing to show</text>')
    each = max(min(_GANTT_ROW, (_GANTT_MOST - _MARGINS) // len(rows)), 2)
    height = each * len(rows) + _MARGINS
    end = max(item[2] for items in shown.values() for item in items)
    every = max(1, -(-len(rows) // 32))
    ticks = list(range(0, len(rows), every))
    y = Axis(y_label, [-float(at) for at in ticks], 0.5 - len(rows), 0.5, names=[rows[at] for at in ticks])
    frame = Frame(linear(x_label, 0.0, end, tight=True), y, height)
    thick = max(each - (3 if each > 8 else 1 if each > 3 else 0), 1)
    pieces = [frame.drawn()]
    scale = (WIDTH - LEFT - RIGHT) / end
    for kind, items in shown.items():
        middles = frame.up(-np.array([item[0] for item in items], dtype=np.float64))
        path = "".join(
            f"M{LEFT + start * scale:.1f} {middle:.1f}h{max((stop - start) * scale - 0.4, 0.1):.1f}"
            for (_, start, stop), middle in zip(items, middles, strict=True)
        )
        pieces.append(f'<path class="curve s{colours[kind]}" style="stroke-width:{thick}" d="{path}"/>')
    return figure(title, "".join(pieces), legend(list(shown), [colours[kind] for kind in shown]) + caption, height)
