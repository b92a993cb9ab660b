"""What an engine's iterations cost, as few unknowns: the parameters of the simulator that a job's own trials fit.

An iteration takes a fixed time, and more for each prompt token, for each decoding sequence and for each pair of tokens
that attention looks at. Knobs that the engine's admission rules do not know (threads, parallel degrees, precision) change
these costs: by a power of their number where physics says so, else by a factor of each value or a slope. Everything is
learnt in logarithms around a prior that holds for any engine and hardware, wide enough for both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from controlplane.model.plans import Provenance
from controlplane.model.tuning import Setting
from tuner.search.axis import Axis
from tuner.search.space import Space
from tuner.serving.knobs import ADMISSION
from tuner.serving.step.table import StepTable

Floats = npt.NDArray[np.float64]

# Rows of the costs: an iteration, a prompt token, a decoding sequence, a pair of tokens. ms each.
COSTS = 4
# Means and deviations of the logarithms of: an iteration's fixed cost in ms (nearly anything); a prompt token's over it
# (weights are read once per iteration, so tens to hundreds of tokens are computed in the time of one reading: the
# ridge of the roofline, Williams, Waterman and Patterson 2009); a decoding sequence's over a prompt token's (the same
# multiplications, plus its sampling); a pair's over a token's (1 / (6 h) of a layer's operations, Narayanan et al. 2021,
# h some hundreds to ten thousand).
_PRIOR = ((math.log(5.0), 4.0), (math.log(0.03), 1.5), (math.log(1.5), 0.8), (math.log(1e-4), 1.2))
# Powers by which time falls with more hardware, of what is computed and of the rest of an iteration: nowhere above 1,
# and the rest (reading, waiting, the host) gains less.
_HARDWARE = frozenset({"numThreads", "tensorParallel", "pipelineParallel", "dataParallel", "expertParallel"})
_POWER_COMPUTED, _POWER_REST = (0.8, 0.3), (0.5, 0.4)
# Nobody knows which way another knob goes: 15 % between two values, 30 % from end to end.
_FACTOR, _SLOPE = (0.0, 0.15), (0.0, 0.3)
_FACTORS_MOST = 8  # values that have a factor each
UNKNOWNS_MOST = 24

# Knots at which the square of a prompt's length is exact enough; everything else is a straight line.
_NEW = (1, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """The unknowns of a space: `mean` and `deviation` of their prior. The first four are of the costs; the others of
    knobs, in the order of the axes."""

    space: Space
    mean: Floats
    deviation: Floats
    _columns: tuple[tuple[str, str, int], ...] = ()
    _base: Floats = field(default_factory=lambda: np.zeros((COSTS, COSTS)))

    def rows(self, setting: Setting) -> Floats:
        """(4, unknowns): the logarithms of the costs under a setting are this times the unknowns."""
        out = np.zeros((COSTS, self.mean.size))
        out[:, :COSTS] = self._base
        axes = {axis.name: axis for axis in self.space.axes}
        for name, kind, place in self._columns:
            if name not in setting:
                continue
            axis, value = axes[name], setting[name]
            if kind == "power":
                less = -math.log(float(value) / _highest(axis))
                out[1:, place] = less
                out[0, place + 1] = less
            elif kind == "factor":
                which = axis.place_of(value) if axis.kind == "choice" else round(axis.point_of(value) * axis.size - 0.5)
                if which:
                    out[:, place + which - 1] = 1.0
            else:
                out[:, place] = axis.point_of(value) - 0.5
        return out

    def costs(self, rows: Floats, unknowns: Floats) -> Floats:
        """ms."""
        return np.asarray(np.exp(np.clip(rows @ unknowns, -40.0, 25.0)), np.float64)


def costs_of(space: Space) -> Costs:
    """The same for the same space."""
    prior, columns, used = list(_PRIOR), [], COSTS
    for axis in space.axes:
        kind, more = _kind(axis)
        if kind is None or used + len(more) > UNKNOWNS_MOST:
            continue
        columns.append((axis.name, kind, used))
        prior += more
        used += len(more)
    base = np.zeros((COSTS, COSTS))
    base[:, 0] = 1.0
    base[1:, 1] = 1.0
    base[2, 2] = 1.0
    base[3, 3] = 1.0
    return Costs(space, np.array([m for m, _ in prior]), np.array([d for _, d in prior]), tuple(columns), base)


def table_of(costs: Floats) -> StepTable:
    """As the replay reads it."""
    iteration, token, sequence, pair = (float(cost) for cost in costs)
    return StepTable(
        context_tokens=_LINE,
        context_ms=iteration + token * _LINE,
        decode_sequences=_LINE,
        decode_ms=iteration + sequence * _LINE,
        context_attention_batch=_LINE,
        context_attention_new=_NEW_KNOTS,
        context_attention_past=_PAST,
        context_attention_ms=pair * _PAIRS,
        decode_attention_sequences=_LINE,
        decode_attention_kv=_LINE,
        decode_attention_ms=pair * _DECODE_PAIRS,
        provenance=_PROVENANCE,
    )


def is_hardware(axis: Axis) -> bool:
    """Whether it says how much of the hardware an engine uses."""
    return axis.name in _HARDWARE and _lowest(axis) > 0


_LINE = np.array([1.0, 1024.0])
_PAST = np.array([0.0, 4096.0])
_NEW_KNOTS = np.array(_NEW, np.float64)
_PAIRS = _LINE[:, None, None] * _NEW_KNOTS[:, None] * (_PAST + _NEW_KNOTS[:, None] / 2)
_DECODE_PAIRS = _LINE[:, None] * _LINE
_PROVENANCE = Provenance(tier="calibrated", source="the job's own trials")


def _kind(axis: Axis) -> tuple[str | None, list[tuple[float, float]]]:
    """How a knob changes the costs, and the priors of its unknowns; None: the admission rules say all of it."""
    if axis.name in ADMISSION or axis.size < 2:
        return None, []
    if is_hardware(axis):
        return "power", [_POWER_COMPUTED, _POWER_REST]
    counted = axis.kind == "choice" or (axis.kind == "int" and not axis.log)
    if counted and axis.size <= _FACTORS_MOST:
        return "factor", [_FACTOR] * (int(axis.size) - 1)
    return "slope", [_SLOPE]


def _lowest(axis: Axis) -> float:
    """0 where it has words for values."""
    if axis.kind != "choice":
        return axis.low
    return min(float(value) if not isinstance(value, str | bool) else 0.0 for value in axis.choices)


def _highest(axis: Axis) -> float:
    if axis.kind != "choice":
        return axis.high
    return max(float(value) for value in axis.choices if not isinstance(value, str))
