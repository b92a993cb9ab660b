"""What a tuning job says about an engine, held against the catalogue before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from controlplane.catalog import load
from controlplane.catalog.knobs import check_each, check_knobs
from controlplane.catalog.loader import unknown
from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.tuning import ChoiceParameter, Parameter, Value
from controlplane.model.tuning_job import CommandTarget, EngineTarget, TuningSpec
from tuner.search.space import Space

# A space of which fewer than one setting in this many works is no space to search.
_DRAWN = 64


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


def check_short_run(spec: TuningSpec) -> None:
    """Raises InvalidSpec for a command: nobody knows when it has printed enough."""
    share = spec.measuring.short_share
    if isinstance(spec.target, CommandTarget) and share:
        raise InvalidSpec(
            "a command has no short run: what it prints before its end is no measurement",
            field="measuring.shortShare",
            value=share,
            limit="0, or absent",
            hint="leave it out; let the command itself end early where it can tell",
        )


def check_some_setting(target: EngineTarget, space: Space, held: Mapping[str, Value], seed: int) -> None:
    """That the engine would start with some setting of the space. `held`: what trials run with besides. Settings that it
    refuses are infeasible; where it refuses all that are drawn, the space is at fault. Raises what the first one breaks."""
    engine = load().engine(target.engine, field="target.engine")
    shapes = {knob.field for knob in engine.shape}
    rows = space.draw(np.random.default_rng(seed), _DRAWN)
    first: TrimtabError | None = None
    for i in range(_DRAWN):
        whole = {**target.shape, **held, **space.fixed, **space.setting(rows, i)}
        knobs = {name: value for name, value in whole.items() if name not in shapes}
        shape = {name: value for name, value in whole.items() if name in shapes}
        errors = check_knobs(engine, knobs, shape, field="space")
        if not errors:
            return
        first = first or errors[0]
    if first is not None:
        way_out = "no setting of the space works: change its parameters, or write the missing value into space.fixed"
        first.hint = f"{way_out}; {first.hint}" if first.hint else way_out
        raise first


def _ends(parameter: Parameter) -> Iterator[tuple[str, Value]]:
    """Values that stand for all: the ends of a range, or every choice."""
    if isinstance(parameter, ChoiceParameter):
        for i, value in enumerate(parameter.values):
            yield f"values[{i}]", value
        return
    yield "low", parameter.low
    yield "high", parameter.high
