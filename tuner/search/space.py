"""A search space made ready: checked, and turned between settings, columns of values and points of the unit cube."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from controlplane.catalog.loader import unknown
from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import (
    VALUES_MAX,
    ChoiceParameter,
    Condition,
    Margin,
    SearchSpace,
    Setting,
    SpaceRule,
    Value,
)
from tuner.search.axis import Axis, axis_of, same
from tuner.search.expression import Column, Formula, parse

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Settings side by side: per parameter its values, and where its conditions hold."""

    values: Mapping[str, Column]
    active: Mapping[str, Bools]
    unit: Floats

    def __len__(self) -> int:
        return int(self.unit.shape[0])


@dataclass(frozen=True, slots=True)
class Known:
    """Rules and margins of a space that no expression says."""

    rules: tuple[tuple[Formula, str], ...] = ()
    margins: tuple[tuple[Formula, Margin], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """`axes` in the order of the parameters."""

    axes: tuple[Axis, ...]
    fixed: Setting
    rules: tuple[tuple[Formula, str], ...] = ()
    margins: tuple[tuple[Formula, Margin], ...] = ()
    _position: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """Different settings, or infinity. An upper bound: conditions and rules take some away."""
        return float(np.prod([axis.size for axis in self.axes]))

    def rows_of_points(self, unit: Floats) -> Rows:
        """`unit`: (n, parameters) in [0, 1]."""
        columns = {axis.name: axis.values_at(unit[:, j]) for j, axis in enumerate(self.axes)}
        return self._rows(columns, unit)

    def rows_of(self, settings: Sequence[Setting]) -> Rows:
        """Settings of this space (as `checked` returns them); what is absent stands in the middle, inactive."""
        unit = np.full((len(settings), len(self.axes)), 0.5)
        for i, setting in enumerate(settings):
            for j, axis in enumerate(self.axes):
                if axis.name in setting:
                    unit[i, j] = axis.point_of(setting[axis.name])
        return self.rows_of_points(unit)

    def setting(self, rows: Rows, i: int) -> Setting:
        """Row `i` as a setting: fixed values and the parameters whose conditions hold."""
        out: Setting = dict(self.fixed)
        for axis in self.axes:
            if rows.active[axis.name][i]:
                out[axis.name] = axis.python(rows.values[axis.name][i])
        return out

    def is_active(self, axis: Axis, so_far: Setting) -> bool:
        """Whether the parameter counts beside the ones above it."""
        for condition in axis.conditions:
            value = so_far.get(condition.parameter)
            if value is None or not any(same(value, wanted) for wanted in condition.values):
                return False
        return True

    def allowed(self, rows: Rows) -> Bools:
        """Rows that keep every rule and no margin rejects. A rule about an inactive parameter does not apply."""
        out = np.ones(len(rows), bool)
        for expression, _ in self.rules:
            out &= expression.over(self.columns(rows)).astype(bool) | ~self._applies(expression, rows)
        for value, margin in zip(self.margin_values(rows).T, (margin for _, margin in self.margins), strict=True):
            out &= ~(value < -margin.slack)
        return out

    def margin_values(self, rows: Rows) -> Floats:
        """(n, margins); +inf where the margin does not apply or is no number."""
        out = np.full((len(rows), len(self.margins)), np.inf)
        for j, (expression, _) in enumerate(self.margins):
            value = np.asarray(expression.over(self.columns(rows)), np.float64)
            out[:, j] = np.where(self._applies(expression, rows) & ~np.isnan(value), value, np.inf)
        return out

    def features(self, rows: Rows) -> Floats:
        """(n, features) for a model: each axis in [0, 1], one column per value where the values have no order."""
        blocks = [axis.features(rows.unit[:, j], rows.active[axis.name]) for j, axis in enumerate(self.axes)]
        return np.hstack(blocks)

    def broken_rule(self, setting: Setting) -> str | None:
        """The message of the first rule or margin that this setting breaks."""
        rows = self.rows_of([setting])
        for expression, message in self.rules:
            if self._applies(expression, rows)[0] and not bool(expression.over(self.columns(rows))[0]):
                return f"{expression.text}: {message}"
        for value, (expression, margin) in zip(self.margin_values(rows)[0], self.margins, strict=True):
            if value < -margin.slack:
                return f"{margin.message} ({expression.text} is {value:.4g}, may be {-margin.slack:.4g})"
        return None

    def checked(self, setting: Mapping[str, Value], *, field: str = "setting") -> Setting:
        """The same setting in its one spelling: every active parameter, no inactive one, values of the right type.
        Raises UnknownName or InvalidSpec with the field."""
        known = {axis.name for axis in self.axes} | set(self.fixed)
        for name in setting:
            if name not in known:
                raise unknown("parameter", name, known, field=f"{field}.{name}")
        for name, value in self.fixed.items():
            if setting.get(name, value) != value:
                raise InvalidSpec(
                    "is fixed in this space", field=f"{field}.{name}", value=setting[name], limit=str(value)
                )
        given = {name: value for name, value in setting.items() if name not in self.fixed}
        for axis in self.axes:
            if axis.name in given:
                axis.check(given[axis.name], f"{field}.{axis.name}")
        out = self.setting(self.rows_of([given]), 0)
        for axis in self.axes:
            if axis.name in out and axis.name not in given:
                raise InvalidSpec("is missing", field=f"{field}.{axis.name}", limit=axis.range_text)
            if axis.name in out:
                # As given: on its way through the unit cube a real number may lose its last digit.
                out[axis.name] = axis.python(axis.stored(given[axis.name]))
        broken = self.broken_rule(out)
        if broken is not None:
            raise InvalidSpec(broken, field=field)
        return out

    def draw(self, rng: np.random.Generator, n: int) -> Rows:
        """`n` allowed rows, uniform over the allowed part of the unit cube. Raises InvalidSpec where none is found."""
        found = np.empty((0, len(self.axes)))
        for _ in range(64):
            rows = self.rows_of_points(rng.random((max(n, 64), len(self.axes))))
            found = np.vstack((found, rows.unit[self.allowed(rows)]))
            if len(found) >= n:
                break
        if not len(found):
            raise InvalidSpec(
                "rules and margins leave nothing of the space",
                field="space.rules",
                limit="at least one setting",
                hint="widen a range or drop a rule; `trimtab tune check` shows what each takes away",
            )
        while len(found) < n:
            found = np.vstack((found, found))
        return self.rows_of_points(found[:n])

    def _rows(self, columns: dict[str, Column], unit: Floats) -> Rows:
        active: dict[str, Bools] = {}
        for axis in self.axes:
            holds = np.ones(len(unit), bool)
            for condition in axis.conditions:
                holds &= self._holds(condition, columns, active)
            active[axis.name] = holds
        return Rows(columns, active, unit)

    def _holds(self, condition: Condition, columns: Mapping[str, Column], active: Mapping[str, Bools]) -> Bools:
        name = condition.parameter
        if name in self.fixed:
            return np.full(len(next(iter(columns.values()))), self.fixed[name] in condition.values)
        axis = self.axes[self._position[name]]
        column = columns[name]
        meets = np.zeros(len(column), bool)
        for value in condition.values:
            meets |= column == axis.stored(value)
        return meets & active[name]

    def columns(self, rows: Rows) -> Mapping[str, Column]:
        """What formulas compute with: parameters and fixed values."""
        n = len(rows)
        constants: dict[str, Column] = {
            name: np.full(n, value, object if isinstance(value, str) else None) for name, value in self.fixed.items()
        }
        return {**rows.values, **constants}

    def _applies(self, expression: Formula, rows: Rows) -> Bools:
        out = np.ones(len(rows), bool)
        for name in expression.names:
            if name in rows.active:
                out &= rows.active[name]
        return out


def compile_space(space: SearchSpace, *, known: Known | None = None, field: str = "space") -> Space:
    """`known`: what holds beside the space's own rules and margins. Raises InvalidSpec: two of a name, a condition on what
    is unknown or comes later, a rule that is no expression, rules that leave nothing."""
    names = [parameter.name for parameter in space.parameters]
    for i, name in enumerate(names):
        if name in names[:i] or name in space.fixed:
            raise InvalidSpec(f"{name!r} stands twice", field=f"{field}.parameters[{i}].name", value=name)
        for condition in space.parameters[i].when:
            if condition.parameter not in names[:i] and condition.parameter not in space.fixed:
                raise InvalidSpec(
                    f"depends on {condition.parameter!r}",
                    field=f"{field}.parameters[{i}].when",
                    limit="a parameter that stands above it, or a fixed one",
                )
        _check_condition_values(space, i, f"{field}.parameters[{i}]")
    spoken, known = frozenset(names) | frozenset(space.fixed), known or Known()
    compiled = Space(
        axes=tuple(axis_of(parameter) for parameter in space.parameters),
        fixed=dict(space.fixed),
        rules=tuple(
            (parse(rule.expression, spoken, field=f"{field}.rules[{i}].expression"), rule.message)
            for i, rule in enumerate(space.rules)
        )
        + known.rules,
        margins=tuple(
            (parse(margin.expression, spoken, field=f"{field}.margins[{i}].expression"), margin)
            for i, margin in enumerate(space.margins)
        )
        + known.margins,
        _position={name: i for i, name in enumerate(names)},
    )
    _try(compiled, space.rules, f"{field}.rules", [one for one, _ in compiled.rules[: len(space.rules)]])
    _try(compiled, space.margins, f"{field}.margins", [one for one, _ in compiled.margins[: len(space.margins)]])
    compiled.draw(np.random.default_rng(0), 1)
    return compiled


def _check_condition_values(space: SearchSpace, i: int, field: str) -> None:
    """Raises InvalidSpec for a condition that can never hold, or values that stand twice."""
    parameter = space.parameters[i]
    axes = {other.name: axis_of(other) for other in space.parameters[:i]}
    for j, condition in enumerate(parameter.when):
        if condition.parameter in axes:
            for value in condition.values:
                axes[condition.parameter].check(value, f"{field}.when[{j}].values")
    if isinstance(parameter, ChoiceParameter):
        axis = axis_of(parameter)
        stored = [axis.stored(value) for value in parameter.values]
        for k, value in enumerate(stored):
            if value in stored[:k]:
                raise InvalidSpec(
                    "stands twice (true counts as 1)", field=f"{field}.values[{k}]", value=parameter.values[k]
                )


def _try(space: Space, given: Sequence[SpaceRule | Margin], field: str, expressions: Iterable[Formula]) -> None:
    """Expressions that compute with words fail here, not in the middle of a study."""
    # Every choice stands in some row: a word among numbers would otherwise be met later.
    line = (np.arange(2 * VALUES_MAX) + 0.5) / (2 * VALUES_MAX)
    rows = space.rows_of_points(np.repeat(line[:, None], len(space.axes), axis=1))
    for i, expression in enumerate(expressions):
        try:
            value: Any = expression.over(space.columns(rows))
            np.asarray(value, np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidSpec(
                "computes with something that is no number", field=f"{field}[{i}].expression", value=given[i].expression
            ) from error
