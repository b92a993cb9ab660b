"""One parameter as an axis of the unit cube."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import ChoiceParameter, Condition, FloatParameter, IntParameter, Parameter, Value
from tuner.search.expression import Column

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """`choices`: values of a choice. `scale`: where each lies in [0, 1], when they have an order."""

    name: str
    kind: str
    low: float = 0.0
    high: float = 1.0
    step: int = 1
    log: bool = False
    choices: tuple[Value, ...] = ()
    scale: Floats | None = None
    conditions: tuple[Condition, ...] = ()
    changes_output: bool = False

    @property
    def size(self) -> float:
        """Different values."""
        if self.kind == "choice":
            return float(len(self.choices))
        if self.kind == "int":
            return float((int(self.high) - int(self.low)) // self.step + 1)
        return 1.0 if self.low == self.high else math.inf

    @property
    def range_text(self) -> str:
        """For error messages."""
        if self.kind == "choice":
            return ", ".join(str(value) for value in self.choices)
        return f"{self.low:g} to {self.high:g}"

    def values_at(self, unit: Floats) -> Column:
        """Values of points in [0, 1]. Whole numbers come as floats (exact to 2**53), choices as objects or numbers."""
        if self.kind == "choice":
            index = np.minimum((unit * len(self.choices)).astype(np.int64), len(self.choices) - 1)
            return self._stored_choices()[index]
        if self.kind == "float":
            return np.clip(self._from_unit(unit, self.low, self.high), self.low, self.high)
        if self.log:
            value = np.rint(self._from_unit(unit, self.low - 0.5, self.high + 0.5))
            return np.clip(value, self.low, self.high)
        steps = self.size
        return self.low + np.minimum(np.floor(unit * steps), steps - 1) * self.step

    def point_of(self, value: Value) -> float:
        """A point in [0, 1] that gives `value`."""
        if self.kind == "choice":
            return (self.place_of(value) + 0.5) / len(self.choices)
        number = float(value)
        if self.kind == "float" or self.log:
            low, high = (self.low, self.high) if self.kind == "float" else (self.low - 0.5, self.high + 0.5)
            return self._to_unit(number, low, high)
        return ((number - self.low) / self.step + 0.5) / self.size

    def features(self, unit: Floats, active: Bools) -> Floats:
        """(n, columns): one column of [0, 1] where the values have an order, else one per value. Inactive rows stand
        in the middle (or at none)."""
        if self.kind == "choice" and self.scale is None:
            index = np.minimum((unit * len(self.choices)).astype(np.int64), len(self.choices) - 1)
            # Two different values lie 1 apart, as the ends of an ordered axis do.
            return np.eye(len(self.choices))[index] * math.sqrt(0.5) * active[:, None]
        if self.kind == "choice":
            assert self.scale is not None
            index = np.minimum((unit * len(self.choices)).astype(np.int64), len(self.choices) - 1)
            column = self.scale[index]
        else:
            values = np.asarray(self.values_at(unit), np.float64)
            column = self._magnitude(values) if self.log else self._linear(values)
        return np.where(active, column, 0.5)[:, None]

    def check(self, value: Value, field: str) -> None:
        """Raises InvalidSpec for a value that is not on the axis."""
        if self.kind == "choice":
            if not any(same(value, choice) for choice in self.choices):
                raise InvalidSpec("not among the values", field=field, value=value, limit=self.range_text)
            return
        if isinstance(value, bool | str) or not math.isfinite(value):
            raise InvalidSpec("not a number", field=field, value=value, limit=self.range_text)
        if not self.low <= value <= self.high:
            raise InvalidSpec("out of range", field=field, value=value, limit=self.range_text)
        if self.kind == "int" and (int(value) != value or (int(value) - int(self.low)) % self.step):
            raise InvalidSpec(
                "not a step of the range", field=field, value=value, limit=f"{self.range_text}, step {self.step}"
            )

    def python(self, value: Any) -> Value:
        """A value of a column as the user would write it."""
        if self.kind == "choice":
            return next(choice for choice in self.choices if same(choice, value) or _stored(choice) == value)
        return int(value) if self.kind == "int" else float(value)

    def stored(self, value: Value) -> Any:
        """As it stands in a column."""
        return _stored(value)

    def _stored_choices(self) -> Column:
        stored = [_stored(choice) for choice in self.choices]
        if all(isinstance(value, float) for value in stored):
            return np.array(stored, np.float64)
        column = np.empty(len(stored), object)
        column[:] = stored
        return column

    def place_of(self, value: Value) -> int:
        """Where a choice stands in the list."""
        for index, choice in enumerate(self.choices):
            if same(choice, value):
                return index
        raise InvalidSpec("not among the values", field=self.name, value=value, limit=self.range_text)

    def nearest(self, value: Value) -> Value | None:
        """The value of the axis that lies nearest; None for a word, or a number among words."""
        if self.kind == "choice" and any(same(value, choice) for choice in self.choices):
            return next(choice for choice in self.choices if same(value, choice))
        if isinstance(value, str | bool):
            return None
        if self.kind == "choice":
            numbers = [one for one in self.choices if not isinstance(one, str | bool)]
            near = min(max(value, min(numbers)), max(numbers)) if numbers else 0
            return min(numbers, key=lambda one: abs(one - near)) if numbers else None
        within = min(max(float(value), self.low), self.high)
        if self.kind == "float":
            return within
        return int(self.low) + min(round((within - self.low) / self.step), int(self.size) - 1) * self.step

    def _from_unit(self, unit: Floats, low: float, high: float) -> Floats:
        if self.log:
            return np.asarray(np.exp(math.log(low) + unit * (math.log(high) - math.log(low))), np.float64)
        return low + unit * (high - low)

    def _to_unit(self, value: float, low: float, high: float) -> float:
        if low == high:
            return 0.5
        if self.log:
            return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        return (value - low) / (high - low)

    def _magnitude(self, values: Floats) -> Floats:
        if self.high == self.low:
            return np.full(len(values), 0.5)
        low, high = math.log(self.low), math.log(self.high)
        return np.asarray((np.log(values) - low) / (high - low), np.float64)

    def _linear(self, values: Floats) -> Floats:
        return (values - self.low) / (self.high - self.low) if self.high > self.low else np.full(len(values), 0.5)


def axis_of(parameter: Parameter) -> Axis:
    """The axis of a parameter."""
    conditions, changes = tuple(parameter.when), parameter.changes_output
    if isinstance(parameter, ChoiceParameter):
        return Axis(
            parameter.name,
            "choice",
            choices=tuple(parameter.values),
            scale=_scale(parameter),
            conditions=conditions,
            changes_output=changes,
        )
    step = parameter.step if isinstance(parameter, IntParameter) else 1
    kind = "float" if isinstance(parameter, FloatParameter) else "int"
    return Axis(
        parameter.name,
        kind,
        float(parameter.low),
        float(parameter.high),
        step,
        parameter.log,
        (),
        None,
        conditions,
        changes,
    )


def _scale(parameter: ChoiceParameter) -> Floats | None:
    """Numbers lie where their size puts them (powers of two evenly); words only have an order if the user says so."""
    values = parameter.values
    if len(values) == 2 or all(isinstance(value, bool) for value in values):
        return np.linspace(0.0, 1.0, len(values)) if len(values) > 1 else np.array([0.5])
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = np.array(values, np.float64)
        numbers = np.log(numbers) if (numbers > 0).all() else numbers
        spread = float(numbers.max() - numbers.min())
        return np.asarray((numbers - numbers.min()) / spread if spread else np.full(len(numbers), 0.5), np.float64)
    return np.linspace(0.0, 1.0, len(values)) if parameter.ordered else None


def same(a: Value, b: Value) -> bool:
    """1 is not True."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _stored(value: Value) -> Any:
    return value if isinstance(value, str) else float(value)
