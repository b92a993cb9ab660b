"""What a tuning job says about an engine, held against the catalogue before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.catalog import load
from controlplane.catalog.knobs import check_each
from controlplane.catalog.loader import unknown
from controlplane.model.tuning import ChoiceParameter, Parameter, Value
from controlplane.model.tuning_job import EngineTarget, TuningSpec


def check_engine(spec: TuningSpec) -> None:
    """Every name and value of the target's shape and of a space that the user wrote, one by one. Raises UnknownName with
    the nearest known, or InvalidSpec with the limit."""
    target = spec.target
    if not isinstance(target, EngineTarget):
        return
    engine = load().engine(target.engine, field="target.engine")
    for error in check_each(engine, target.shape, field="target.shape"):
        raise error
    if spec.space is None:
        return
    known = {knob.field for knob in (*engine.shape, *engine.knobs)}
    for i, parameter in enumerate(spec.space.parameters):
        if parameter.name not in known:
            raise unknown(f"{engine.id} knob", parameter.name, known, field=f"space.parameters[{i}].name")
        for part, value in _ends(parameter):
            for error in check_each(engine, {parameter.name: value}, field=f"space.parameters[{i}]"):
                error.field = f"space.parameters[{i}].{part}"
                raise error
    for error in check_each(engine, spec.space.fixed, field="space.fixed"):
        raise error


def _ends(parameter: Parameter) -> Iterator[tuple[str, Value]]:
    """Values that stand for all: the ends of a range, or every choice."""
    if isinstance(parameter, ChoiceParameter):
        for i, value in enumerate(parameter.values):
            yield f"values[{i}]", value
        return
    yield "low", parameter.low
    yield "high", parameter.high
