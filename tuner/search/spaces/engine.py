"""The space of an engine: its knobs of the catalogue, the parallel degrees the hardware allows, and what cannot fit."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from controlplane.catalog import Accelerator, Engine, ModelShape, load
from controlplane.catalog.knobs import check_each
from controlplane.catalog.params import check_parallel
from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import (
    ChoiceParameter,
    Condition,
    FloatParameter,
    IntParameter,
    Margin,
    Parameter,
    SearchSpace,
    SpaceRule,
    Value,
)
from tuner.search.spaces.memory import check_room, memory_margin
from tuner.search.spaces.rules import rules_of
from tuner.serving.case import EngineCase

_DATA = Path(__file__).parent / "data" / "engines.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What is known of a target. `model` and `accelerator` are catalogue ids where it has them; `devices`: how many a
    trial may use; `cores`: of the leased CPUs; `longest_tokens`: prompt and output of the longest request; `fixed`:
    shape and knobs that the user sets."""

    engine: str
    model: str | None = None
    accelerator: str | None = None
    devices: int = 1
    cores: int | None = None
    longest_tokens: int = 4096
    fixed: Mapping[str, Value] | None = None
    may_change_output: Collection[str] = ()


def engine_space(facts: EngineFacts) -> SearchSpace:
    """Raises UnknownName (engine, knob), InvalidSpec, or Unsupported where nothing of it can fit."""
    catalog = load()
    engine = catalog.engine(facts.engine, field="target.engine")
    model = catalog.model(facts.model, field="target.model") if facts.model else None
    accelerator = catalog.accelerator(facts.accelerator, field="target.accelerator") if facts.accelerator else None
    data, fixed = _data()[engine.id], dict(facts.fixed or {})
    for error in check_each(engine, fixed, field="target.shape"):
        raise error
    _check_allowed(facts, data)
    parameters = [
        _parameter(engine, row, accelerator)
        for row in data["knobs"]
        if row["knob"] not in fixed and (not row.get("changes_output") or row["knob"] in facts.may_change_output)
    ]
    if "threads" in data and (facts.cores or 1) > 1 and data["threads"] not in fixed:
        parameters.append(IntParameter(name=data["threads"], low=1, high=facts.cores or 1))
    parameters += [
        one for one in _degrees(engine, model, facts.devices) if one.name not in fixed and len(one.values) > 1
    ]
    parameters = [one for one in parameters if _reachable(one, fixed)]
    searched = frozenset(one.name for one in parameters)
    rules = rules_of(engine, searched, fixed) + _device_rule(searched, fixed, facts.devices)
    rules += _whole_prompts(data, searched, facts.longest_tokens)
    margins = _margins(data, facts, parameters, searched, fixed, accelerator)
    return SearchSpace(parameters=parameters, rules=rules, margins=margins, fixed=fixed)


def check_fits(facts: EngineFacts, space: SearchSpace) -> None:
    """For a space that the user wrote: whether the model has room anywhere in it. Nothing is said where model or
    accelerator are unknown. Raises UnknownName, or Unsupported with the bytes."""
    if facts.model is None or facts.accelerator is None:
        return
    catalog = load()
    engine = catalog.engine(facts.engine, field="target.engine")
    accelerator = catalog.accelerator(facts.accelerator, field="target.accelerator")
    names = _data()[engine.id].get("memory")
    fixed = {**(facts.fixed or {}), **space.fixed}
    ranges = {one.name: one for one in space.parameters}
    said = {*fixed, *ranges}
    experts_spread = catalog.model(facts.model, field="target.model").moe is not None and "dataParallel" in said
    if names is None or experts_spread or "quantization" in said:
        return  # no line tells how experts spread over attention replicas; other weights are other bytes
    largest = EngineCase(
        model=facts.model,
        accelerator=accelerator.id,
        engine=facts.engine,  # type: ignore[arg-type]  # the catalogue knows it: asked above
        tensor_parallel=int(_most(ranges.get("tensorParallel"), fixed.get("tensorParallel", 1))),
        pipeline_parallel=int(_most(ranges.get("pipelineParallel"), fixed.get("pipelineParallel", 1))),
    )
    share = fixed.get(names["fraction"])
    if names["fraction"] in ranges:
        share = _most(ranges[names["fraction"]], 1.0)
    check_room([largest], fraction=None if share is None else float(share), longest_tokens=facts.longest_tokens)


def _most(parameter: Parameter | None, otherwise: Value) -> float:
    """The largest number that a parameter may take."""
    if parameter is None:
        return float(otherwise)
    if isinstance(parameter, ChoiceParameter):
        return max((float(one) for one in parameter.values if not isinstance(one, str)), default=float(otherwise))
    return parameter.high


@cache
def _data() -> dict[str, Any]:
    return dict(json.loads(_DATA.read_text()))


def _check_allowed(facts: EngineFacts, data: Mapping[str, Any]) -> None:
    offered = [row["knob"] for row in data["knobs"] if row.get("changes_output")]
    for i, name in enumerate(facts.may_change_output):
        if name not in offered:
            raise InvalidSpec(
                f"{name!r} is no searched knob of {facts.engine} that changes its output",
                field=f"mayChangeOutput[{i}]",
                value=name,
                limit=", ".join(offered),
                hint="a space of your own may search any knob",
            )


def _parameter(engine: Engine, row: Mapping[str, Any], accelerator: Accelerator | None) -> Parameter:
    """The row within what the catalogue allows."""
    name = row["knob"]
    knob = engine.knob(name)
    if knob is None:
        raise InvalidSpec(f"{engine.id} has no knob {name}", field="engines.json")
    when = [Condition(parameter=other, values=[value]) for other, value in row.get("when", {}).items()]
    changes = bool(row.get("changes_output", False))
    if "values" in row:
        values = [one for one in row["values"] if _computes(knob.value_needs.get(str(one)), accelerator)]
        return ChoiceParameter(name=name, values=values, when=when, changes_output=changes)
    low, high = max(row["low"], knob.minimum or row["low"]), min(row["high"], knob.maximum or row["high"])
    log = bool(row.get("log", False))
    if knob.type == "int":
        return IntParameter(name=name, low=int(low), high=int(high), log=log, when=when, changes_output=changes)
    return FloatParameter(name=name, low=low, high=high, log=log, when=when, changes_output=changes)


def _computes(needs: str | None, accelerator: Accelerator | None) -> bool:
    """Number formats that need an instruction set are searched only where it is known to be there."""
    return needs is None or (accelerator is not None and needs in accelerator.instruction_sets)


def _degrees(engine: Engine, model: ModelShape | None, devices: int) -> list[ChoiceParameter]:
    """Parallel degrees: powers of two that divide the model and do not exceed the devices."""
    out = []
    powers = [2**k for k in range(devices.bit_length()) if 2**k <= devices]
    for name, argument in (
        ("tensorParallel", "tensor_parallel"),
        ("pipelineParallel", "pipeline_parallel"),
        ("dataParallel", None),
        ("expertParallel", "expert_parallel"),
    ):
        if not any(knob.field == name for knob in engine.shape):
            continue
        if name == "expertParallel" and (model is None or model.moe is None):
            continue
        fits = [n for n in powers if model is None or argument is None or not check_parallel(model, **{argument: n})]
        out.append(ChoiceParameter(name=name, values=list(fits or [1])))
    return out


def _reachable(parameter: Parameter, fixed: Mapping[str, Value]) -> bool:
    """Not switched off for good by what is fixed."""
    return all(fixed.get(one.parameter, one.values[0]) in one.values for one in parameter.when)


def _device_rule(searched: frozenset[str], fixed: Mapping[str, Value], devices: int) -> list[SpaceRule]:
    degrees = [n for n in ("tensorParallel", "pipelineParallel", "dataParallel") if n in searched or n in fixed]
    if not set(degrees) & searched:
        return []
    message = f"a trial has {devices} devices: lower a parallel degree"
    return [SpaceRule(expression=f"{' * '.join(degrees)} <= {devices}", message=message)]


def _whole_prompts(data: Mapping[str, Any], searched: frozenset[str], longest_tokens: int) -> list[SpaceRule]:
    """Engines that do not split prompts need a step budget as long as the longest."""
    row = data.get("whole_prompts")
    if row is None or not {row["unless"], row["budget"]} <= searched:
        return []
    expression = f"{row['unless']} or {row['budget']} >= {longest_tokens}"
    return [SpaceRule(expression=expression, message=f"prompts that are not split need {row['budget']} as long")]


def _margins(
    data: Mapping[str, Any],
    facts: EngineFacts,
    parameters: list[Parameter],
    searched: frozenset[str],
    fixed: Mapping[str, Value],
    accelerator: Accelerator | None,
) -> list[Margin]:
    names = data.get("memory")
    if names is None or accelerator is None or facts.model is None or not set(names.values()) <= searched:
        return []
    if "quantization" in fixed:
        return []  # other weights are other bytes
    model = load().model(facts.model, field="target.model")
    if model.moe is not None and ("dataParallel" in searched or int(fixed.get("dataParallel", 1)) > 1):
        return []  # attention replicas spread the experts over each other: no line tells how
    ranges = {one.name: one for one in parameters}
    share, degrees = ranges[names["fraction"]], ranges.get("tensorParallel")
    tensor = (
        [int(n) for n in degrees.values]
        if isinstance(degrees, ChoiceParameter)
        else [int(fixed.get("tensorParallel", 1))]
    )
    case = EngineCase(
        model=facts.model,
        accelerator=accelerator.id,
        engine=facts.engine,  # type: ignore[arg-type]  # the catalogue knows it: checked above
        pipeline_parallel=int(fixed.get("pipelineParallel", 1)),
    )
    stages = ranges.get("pipelineParallel")
    most = share.high if isinstance(share, FloatParameter) else 1.0
    margin = memory_margin(
        case,
        names,
        tensor_parallel=tensor,
        stages=[int(n) for n in stages.values] if isinstance(stages, ChoiceParameter) else [case.pipeline_parallel],
        devices=facts.devices,
        fraction_most=most,
        longest_tokens=facts.longest_tokens,
        searched=searched,
    )
    return [] if margin is None else [margin]
