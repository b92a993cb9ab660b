"""Effects fitted inside the replay: Gauss-Newton on |ln(predicted / measured)|, every effect drawn to zero.

An observation's knobs are sums of effects, one per level that it belongs to (its engine; its engine, accelerator and
model; ...). Each effect has a spread: how far it may be from zero before it costs as much as one noise width of one
run. Shared levels with small spreads stay near the step tables unless many groups agree; levels of one group take what
is left. Nothing is drawn at random and the order of rows does not matter beyond rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from controlplane.model.errors import InvalidSpec
from tuner.serving.calibration.observations import Floats, Observation, log_errors
from tuner.serving.calibration.parameters import KNOBS, Effect, Knob

LEAST_ROWS = 20  # fewer cannot tell five numbers of an engine from noise
NOISE = 0.15  # width of a run's error, ln: repeats of one configuration on other days differ by about this much
ROBUST = 0.05  # errors above this count by their size, not by its square: the median is what is judged
_WEIGHTS = np.array([1.0, 1.0])  # of TTFT and TPOT
# One unit of each knob in the fit, and the step of its finite difference in the knob's own unit.
_UNITS = np.array([1.0, 1.0, 1.0, 0.01, 10.0, 0.001, 10.0])
_STEPS = np.array([0.02, 0.02, 0.2, 0.01, 3.0, 0.001, 5.0])
# Where effects of a knob start, in its unit: a launch time that no iteration notices has no derivative.
_STARTS: dict[Knob, float] = {"launch_ms": 2.0}
_LINEAR_ROUNDS = 12
_STEEPEST = 30.0  # bound of a derivative: a run on the edge of its KV memory jumps


@dataclass(frozen=True, slots=True)
class Level:
    """Effects for each combination of `labels`. `spread` by knob, in the knob's unit (ln or ms)."""

    labels: tuple[str, ...]
    spread: Mapping[Knob, float]


@dataclass(slots=True)
class _Design:
    levels: Sequence[Level]
    columns: dict[tuple[int, tuple[str, ...], int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.knob: list[int] = []
        self.spread: list[float] = []

    knob: list[int] = field(init=False)
    spread: list[float] = field(init=False)

    def add(self, observations: Sequence[Observation]) -> None:
        for number, level in enumerate(self.levels):
            for values in sorted({_values(level, item) for item in observations}):
                for knob, spread in level.spread.items():
                    at = KNOBS.index(knob)
                    self.columns[(number, values, at)] = len(self.knob)
                    self.knob.append(at)
                    self.spread.append(spread / float(_UNITS[at]))

    def matrix(self, observations: Sequence[Observation]) -> Floats:
        found = np.zeros((len(observations), len(self.knob)))
        for i, item in enumerate(observations):
            for number, level in enumerate(self.levels):
                for knob in level.spread:
                    column = self.columns.get((number, _values(level, item), KNOBS.index(knob)))
                    if column is not None:
                        found[i, column] = 1.0
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """`values` of the design's effects; at these knobs the runs had these errors (ln) and derivatives."""

    observations: Sequence[Observation]
    design: _Design
    matrix: Floats
    cost: Floats
    values: Floats
    at: Floats
    errors: Floats
    slopes: Floats

    @property
    def effects(self) -> list[Effect]:
        """By name; those that are nothing are left out."""
        return _named(self.design, self.values, self.matrix)

    def without(self, left_out: Sequence[bool]) -> list[Effect]:
        """Effects had these runs not been there. The other runs' errors are taken to be linear around this fit, so
        nothing is replayed; what only the absent runs spoke for is zero."""
        kept = ~np.asarray(left_out)
        matrix, slopes = self.matrix[kept], self.slopes[kept]
        weights = _weights([item for item, keep in zip(self.observations, kept, strict=True) if keep])
        values = np.where(matrix.any(axis=0), self.values, 0.0)

        def errors_at(tried: Floats) -> Floats:
            moved = (_knobs(self.design, matrix, tried) - self.at[kept]) / _UNITS
            return np.asarray(self.errors[kept] + np.einsum("imk,ik->im", slopes, moved), np.float64)

        errors = errors_at(values)
        least = _loss(errors, values, weights, self.cost)
        for _ in range(_LINEAR_ROUNDS):
            tried = values + _step(self.design, matrix, slopes, errors, values, weights, self.cost, 1e-6)
            tried_errors = errors_at(tried)
            found = _loss(tried_errors, tried, weights, self.cost)
            if found > least * (1 - 1e-5):
                break
            values, errors, least = tried, tried_errors, found
        return _named(self.design, values, matrix)


def fit(
    observations: Sequence[Observation], levels: Sequence[Level], *, shrinkage: float = 1.0, rounds: int = 6
) -> Fit:
    """Effects of the levels on these runs. `shrinkage` multiplies the cost of every effect. Raises InvalidSpec below
    `LEAST_ROWS`."""
    if len(observations) < LEAST_ROWS:
        raise InvalidSpec("too few runs to fit", field="data", value=len(observations), limit=f"{LEAST_ROWS} or more")
    design = _Design(levels)
    design.add(observations)
    matrix = design.matrix(observations)
    cost = shrinkage / np.array(design.spread) ** 2
    weights = _weights(observations)
    values = np.array([_STARTS.get(KNOBS[knob], 0.0) for knob in design.knob])
    at = _knobs(design, matrix, values)
    errors = log_errors(observations, at)
    slopes = _slopes(observations, at, errors)
    least, damping = _loss(errors, values, weights, cost), 1e-3
    for _ in range(rounds):
        for _attempt in range(4):
            tried = values + _step(design, matrix, slopes, errors, values, weights, cost, damping)
            tried_at = _knobs(design, matrix, tried)
            tried_errors = log_errors(observations, tried_at)
            found = _loss(tried_errors, tried, weights, cost)
            if found < least:
                break
            damping = max(8 * damping, 1e-2)
        else:
            break
        gain, least = least - found, found
        values, at, errors, damping = tried, tried_at, tried_errors, damping / 4
        slopes = _slopes(observations, at, errors)
        if gain < 0.002 * least:
            break
    return Fit(observations, design, matrix, cost, values, at, errors, slopes)


def _weights(observations: Sequence[Observation]) -> Floats:
    """A group of many runs counts for more than one of few, but not in proportion."""
    sizes = Counter(item.group for item in observations)
    found = np.array([1 / np.sqrt(sizes[item.group]) for item in observations])
    return np.asarray(found / found.mean())


def _knobs(design: _Design, matrix: Floats, values: Floats) -> Floats:
    knob = np.array(design.knob)
    found = np.zeros((matrix.shape[0], len(KNOBS)))
    for number in range(len(KNOBS)):
        found[:, number] = matrix[:, knob == number] @ values[knob == number] * _UNITS[number]
    found[:, 2:] = np.maximum(found[:, 2:], 0.0)
    return found


def _loss(errors: Floats, values: Floats, weights: Floats, cost: Floats) -> float:
    size = np.abs(errors)
    bent = np.where(size < ROBUST, errors**2 / 2 / ROBUST, size - ROBUST / 2)
    return float((bent * weights[:, None] * _WEIGHTS).sum() / NOISE + (cost * values**2).sum() / 2)


def _step(
    design: _Design,
    matrix: Floats,
    slopes: Floats,
    errors: Floats,
    values: Floats,
    weights: Floats,
    cost: Floats,
    damping: float,
) -> Floats:
    """Gauss-Newton, each error weighted by what the robust loss still sees of it."""
    knob = np.array(design.knob)
    pull = _WEIGHTS * weights[:, None] / np.maximum(np.abs(errors), ROBUST) / NOISE
    curvature = np.diag(cost)
    gradient = -cost * values
    for metric in range(2):
        rows = matrix * slopes[:, metric, :][:, knob]
        curvature = curvature + rows.T @ (rows * pull[:, metric][:, None])
        gradient = gradient - rows.T @ (pull[:, metric] * errors[:, metric])
    return np.asarray(np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), gradient), np.float64)


def knobs_of(observations: Sequence[Observation], effects: Sequence[Effect]) -> Floats:
    """Knobs of each observation under effects, in the order of `KNOBS`."""
    found = np.zeros((len(observations), len(KNOBS)))
    by_names: dict[tuple[str, ...], dict[tuple[str, ...], list[Effect]]] = {}
    for effect in effects:
        names = tuple(sorted(effect.when))
        by_names.setdefault(names, {}).setdefault(tuple(effect.when[name] for name in names), []).append(effect)
    for i, item in enumerate(observations):
        for names, effects_of in by_names.items():
            for effect in effects_of.get(tuple(item.labels.get(name, "") for name in names), ()):
                found[i, KNOBS.index(effect.knob)] += effect.value
    return found


def _slopes(observations: Sequence[Observation], at: Floats, errors: Floats) -> Floats:
    """Derivatives of ln TTFT and ln TPOT by each knob, per unit of the fit."""
    found = np.zeros((len(observations), 2, len(KNOBS)))
    for number in range(len(KNOBS)):
        moved = at.copy()
        moved[:, number] += _STEPS[number]
        found[:, :, number] = (log_errors(observations, moved) - errors) / _STEPS[number] * _UNITS[number]
    return np.clip(found, -_STEEPEST, _STEEPEST)


def _named(design: _Design, effects: Floats, matrix: Floats) -> list[Effect]:
    rows = matrix.sum(axis=0)
    found = []
    for (number, values, at), column in design.columns.items():
        value = round(float(effects[column] * _UNITS[at]), 5)
        if value:
            when = dict(zip(design.levels[number].labels, values, strict=True))
            found.append(Effect(when=when, knob=KNOBS[at], value=value, rows=int(rows[column])))
    return found


def _values(level: Level, observation: Observation) -> tuple[str, ...]:
    return tuple(observation.labels[name] for name in level.labels)
