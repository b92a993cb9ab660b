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
from tuner.plot import Series, plot
from tuner.search.space import Space, compile_space

_FLOOR = HEIGHT - 44
_LINES_MAX = 300
_AXES_MAX = 12


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
    names = [axis.name for axis in axes] + [spec.objectives[0].metric]
    ends = [axis.range_text for axis in axes] + [f"{values.min():.4g} to {values.max():.4g}"]
    across = np.linspace(LEFT, WIDTH - RIGHT - 40, len(names))
    parts = []
    for x, name, text in zip(across, names, ends, strict=True):
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{_FLOOR}"/>')
        parts.append(f'<text text-anchor="middle" x="{x:.1f}" y="{_FLOOR + 15}">{escape(name)}</text>')
        parts.append(f'<text text-anchor="middle" x="{x:.1f}" y="{_FLOOR + 29}">{escape(text[:22])}</text>')
    good = _best_fifth(spec, values) & full
    for colour, chosen in ((5, ~good), (2, good)):
        for row in heights[chosen]:
            parts.append(f'<path class="curve s{colour}" d="{_path(across, row)}"/>')
    return figure("Settings and what they gave", "".join(parts), '<span class="s2">best fifth</span><span class="s5">others</span>')  # fmt: skip


def feasibility_map(spec: TuningSpec, search: Sequence[TrialRecord], by_importance: Sequence[str]) -> str:
    """Where settings worked, over the two parameters that matter most (or the first two)."""
    space = _space(spec)
    if space is None or len(space.axes) < 2:
        return ""
    names = [axis.name for axis in space.axes]
    chosen = [name for name in by_importance if name in names][:2]
    first, second = (chosen + [name for name in names if name not in chosen])[:2]
    ended = [trial for trial in search if trial.state in {TrialState.DONE, TrialState.INFEASIBLE}]
    kinds: dict[str, list[TrialRecord]] = {"worked": [], "over a limit": [], "did not work": []}
    for trial in ended:
        over = any(value > 0 for value in trial.violation or [])
        kinds["did not work" if trial.state is TrialState.INFEASIBLE else "over a limit" if over else "worked"].append(
            trial
        )
    at = [names.index(first), names.index(second)]
    series = []
    for kind, trials in kinds.items():
        unit = _unit(space, trials)[:, at] if trials else np.empty((0, 2))
        series.append(Series(kind, unit[:, 0], unit[:, 1], "points"))
    return plot(
        "Where settings worked",
        f"{first}, from low to high ({space.axes[at[0]].range_text})"[:120],
        second[:30],
        series,
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
