"""A search's parameters as axes of a figure: values as users write them, logarithmic where the search is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import TrialRecord
from tuner.axes import Axis, Floats, linear, tick_label
from tuner.search.axis import Axis as Searched
from tuner.tuning_words import cut, parameter_unit

_LABEL_CHARS = 40  # that fit along the vertical axis
_NAME_CHARS = 9  # of a value beside the vertical axis
_TICKS_MOST = 9
_PAD = 0.04  # of the axis, so that no point stands on the frame
_WHOLE_MOST = 8  # whole numbers that each get a tick
# Points of the same choice are drawn apart, by less than lies between two choices.
_APART = 0.4
_GOLDEN = (math.sqrt(5) - 1) / 2


def figure_axis(spec: TuningSpec, axis: Searched) -> Axis:
    """With its unit, where the engine's catalogue entry says one."""
    unit = parameter_unit(spec, axis.name)
    label = cut(f"{axis.name}, {unit}" if unit else axis.name, _LABEL_CHARS)
    if axis.kind == "choice":
        names = [cut(str(value), _NAME_CHARS) for value in axis.choices]
        every = max(1, -(-len(names) // 32))
        shown = range(0, len(names), every)
        return Axis(label, list(shown), -0.5, len(names) - 0.5, names=[names[i] for i in shown])
    if axis.log and axis.high > axis.low:
        share = (axis.high / axis.low) ** _PAD
        return Axis(label, log_ticks(axis.low, axis.high), axis.low / share, axis.high * share, log=True)
    pad = (axis.high - axis.low) * _PAD
    if axis.kind == "int" and axis.high - axis.low <= _WHOLE_MOST:
        pad = max(pad, 0.4)
        ticks = [axis.low + i for i in range(int(axis.high - axis.low) + 1)]
        return Axis(label, ticks, axis.low - pad, axis.high + pad)
    return linear(label, axis.low - pad, axis.high + pad, tight=True)


def places(axis: Searched, trials: Sequence[TrialRecord]) -> Floats:
    """Where each trial stands on `figure_axis`; NaN where the parameter does not count."""
    out = np.full(len(trials), np.nan)
    for i, trial in enumerate(trials):
        value = trial.setting.get(axis.name)
        if value is None:
            continue
        if axis.kind == "choice":
            out[i] = axis.place_of(value) + _APART * (trial.number * _GOLDEN % 1 - 0.5)
        else:
            out[i] = float(value)
    return out


def axis_marks(axis: Searched) -> list[tuple[float, str]]:
    """Shares of the range and their values, for an axis that stands alone: every choice, few whole numbers, or both
    ends."""
    if axis.kind == "choice":
        marks = [(axis.point_of(value), cut(str(value), 12)) for value in axis.choices]
        return marks if len(marks) <= _TICKS_MOST else [marks[0], marks[-1]]
    if axis.kind == "int" and axis.size <= _WHOLE_MOST and not axis.log:
        values = [int(axis.low) + i * axis.step for i in range(int(axis.size))]
        return [(axis.point_of(value), str(value)) for value in values]
    whole = axis.kind == "int"
    return [
        (axis.point_of(int(value) if whole else value), tick_label(value))
        for value in ((axis.low, axis.high) if axis.high > axis.low else (axis.low,))
    ]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 (or with 3) between them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if 2 <= len(inside) <= _TICKS_MOST:
            return inside
    every = max(1, -(-len(inside) // _TICKS_MOST))
    return inside[::every] if len(inside) >= 2 else [low, high]
