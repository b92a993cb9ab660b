"""Figures of a search: every setting as a line across its parameters, and where settings worked."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from controlplane.model.errors import TrimtabError
from controlplane.model.tuning import TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import TrialRecord
from tuner.axes import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Floats, figure
from tuner.plot import Series, Style, plot
from tuner.search.space import Space, compile_space
from tuner.tuning_axes import axis_marks, figure_axis, places
from tuner.tuning_words import cut, limit_words, metric_label

_FLOOR = HEIGHT - 44
_LINES_MAX = 300
_AXES_MAX = 12
_ONE_ROW = 6  # axes whose names have room beside each other
_CHAR_PX = 6.5  # width of a character of the labels


def parallel_coordinates(spec: TuningSpec, search: Sequence[TrialRecord]) -> str:
    """One line per measured trial, low to high on each axis; the best fifth in front, broken where a parameter does not
    count."""
    space = _space(spec)
    done = [trial for trial in search if trial.state is TrialState.DONE and trial.objectives][-_LINES_MAX:]
    full = np.array([not trial.short for trial in done], np.bool_)
    if space is None or not done:
        return figure("Settings", f'<text x="{LEFT}" y="{HEIGHT // 2}">nothing to show</text>')
    axes = list(space.axes)[: _AXES_MAX - 1]
    unit = _unit(space, done)[:, : len(axes)]
    values = np.array([trial.objectives[0] for trial in done if trial.objectives], np.float64)
    spread = float(np.ptp(values)) or 1.0
    heights = np.hstack([unit, ((values - values.min()) / spread)[:, None]])
    good = _best_fifth(spec, values) & full
    across = np.linspace(LEFT, WIDTH - RIGHT - 40, len(axes) + 1)
    lines = [
        f'<path class="curve s{colour}" d="{_path(across, row)}"/>'
        for colour, chosen in ((5, ~good), (2, good))
        for row in heights[chosen]
    ]
    ends = (
        [(0.0, f"{values.min():.4g}"), (1.0, f"{values.max():.4g}")] if np.ptp(values) else [(0.0, f"{values[0]:.4g}")]
    )
    marks = [*((axis.name, axis_marks(axis)) for axis in axes), (metric_label(spec.objectives[0].metric), ends)]
    rows = 1 if len(marks) <= _ONE_ROW else 2
    body = "".join([_poles(across, [name for name, _ in marks], rows), *lines, _values(across, [m for _, m in marks])])
    left_out = f" {len(space.axes) - len(axes)} more parameters are left out." if len(space.axes) > len(axes) else ""
    caption = f'<span class="s2">best fifth</span><span class="s5">others</span>{left_out}'
    return figure("Settings and what they gave", body, caption, HEIGHT + 14 * (rows - 1))


def _poles(across: Floats, names: Sequence[str], rows: int) -> str:
    """The axes and their names, in turn on so many lines."""
    room = int((WIDTH - LEFT - RIGHT) / max(1, len(names) - 1) * rows / _CHAR_PX)
    parts = []
    for i, (x, name) in enumerate(zip(across, names, strict=True)):
        place = "end" if i == len(names) - 1 else "middle"  # the last stands near the edge
        at = x + (36 if place == "end" else 0)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{_FLOOR}"/>')
        parts.append(
            f'<text text-anchor="{place}" x="{at:.1f}" y="{_FLOOR + 18 + 14 * (i % rows)}">'
            f"{escape(cut(name, room))}</text>"
        )
    return "".join(parts)


def _values(across: Floats, marks: Sequence[Sequence[tuple[float, str]]]) -> str:
    """Values beside their places, over the lines; those at the ends stand inside."""
    parts = []
    for x, of_axis in zip(across, marks, strict=True):
        for share, text in of_axis:
            y = min(max(_FLOOR - share * (_FLOOR - TOP) + 4, TOP + 10), _FLOOR - 2)
            parts.append(f'<text class="on" x="{x + 4:.1f}" y="{y:.1f}">{escape(text)}</text>')
    return "".join(parts)


def feasibility_map(spec: TuningSpec, search: Sequence[TrialRecord], by_importance: Sequence[str]) -> str:
    """Where settings worked, over the two parameters that matter most (or the first two)."""
    space = _space(spec)
    if space is None or len(space.axes) < 2:
        return ""
    known = {axis.name: axis for axis in space.axes}
    chosen = [name for name in by_importance if name in known][:2]
    first, second = (known[name] for name in (chosen + [name for name in known if name not in chosen])[:2])
    kinds: dict[Style, list[TrialRecord]] = {"points": [], "rings": [], "crosses": []}
    for trial in search:
        if trial.state is TrialState.INFEASIBLE:
            kinds["crosses"].append(trial)
        elif trial.state is TrialState.DONE:
            kinds["rings" if any(value > 0 for value in trial.violation or []) else "points"].append(trial)
    series = [
        Series(name, places(first, trials), places(second, trials), style)
        for (style, trials), name in zip(kinds.items(), ("worked", "over a limit", "did not work"), strict=True)
    ]
    return plot(
        "Where settings worked",
        "",
        "",
        series,
        axes=(figure_axis(spec, first), figure_axis(spec, second)),
        caption=f"Limits: {escape('; '.join(limit_words(one) for one in spec.limits))}." if spec.limits else "",
    )


def _space(spec: TuningSpec) -> Space | None:
    try:
        return None if spec.space is None else compile_space(spec.space)
    except TrimtabError:
        return None


def _unit(space: Space, trials: Sequence[TrialRecord]) -> Floats:
    """(trials, parameters) in [0, 1]; NaN where a parameter does not count."""
    rows = space.rows_of([trial.setting for trial in trials])
    unit = np.array(rows.unit, np.float64)
    for j, axis in enumerate(space.axes):
        unit[~rows.active[axis.name], j] = np.nan
    return unit


def _best_fifth(spec: TuningSpec, values: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    if spec.objectives[0].direction == "maximize":
        return np.asarray(values >= np.quantile(values, 0.8))
    return np.asarray(values <= np.quantile(values, 0.2))


def _path(across: Floats, row: Floats) -> str:
    words, open_line = [], False
    for x, share in zip(across, row, strict=True):
        if np.isnan(share):
            open_line = False
            continue
        words.append(f"{'L' if open_line else 'M'}{x:.1f} {_FLOOR - share * (_FLOOR - TOP):.1f}")
        open_line = True
    return "".join(words)
