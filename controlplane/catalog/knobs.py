"""Checks an engine's settings and writes them as its command line. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.catalog.engines import Engine, Knob, Rule, Scalar
from controlplane.catalog.hardware import Accelerator
from controlplane.catalog.loader import unknown
from controlplane.model.errors import InvalidSpec, TrimtabError


@dataclass(frozen=True, slots=True)
class Rendered:
    """Settings in the engine's own words: arguments, and what belongs into its configuration file (nested)."""

    args: tuple[str, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)


def check_knobs(
    engine: Engine,
    knobs: Mapping[str, Scalar],
    shape: Mapping[str, Scalar] | None = None,
    *,
    field: str = "knobs",
    accelerator: Accelerator | None = None,
) -> list[TrimtabError]:
    """All that is wrong with these settings: unknown names (the nearest is named), types, ranges, combinations.

    `shape` holds the shape fields (`tensorParallel`, ...) that rules may speak about; `field` is the path of the knobs
    in the user's object; `accelerator` lets values be refused that it cannot compute with. Empty when the engine would
    accept them.
    """
    errors: list[TrimtabError] = []
    names = {knob.field: knob for knob in engine.knobs}
    for name, value in knobs.items():
        knob = names.get(name)
        if knob is None:
            errors.append(unknown(f"{engine.id} knob", name, names, field=f"{field}.{name}"))
        else:
            error = _check_value(knob, value, f"{field}.{name}")
            if error is None and accelerator is not None:
                error = _check_hardware(knob, value, accelerator, f"{field}.{name}")
            if error is not None:
                errors.append(error)
    shape = shape or {}
    shape_names = {knob.field: knob for knob in engine.shape}
    parent = field.rpartition(".")[0]
    for name, value in shape.items():
        path = f"{parent}.{name}" if parent else name
        knob = shape_names.get(name)
        if knob is None:
            if value not in (None, 1):
                errors.append(
                    InvalidSpec(f"{engine.id} has no {name}", field=path, value=value, limit="1, or leave it out")
                )
        elif value is not None:
            error = _check_value(knob, value, path)
            if error is not None:
                errors.append(error)
    if not errors:
        errors = [error for rule in engine.rules if (error := _check_rule(engine, rule, knobs, shape, field))]
    return errors


def check_each(engine: Engine, values: Mapping[str, Scalar], *, field: str) -> list[TrimtabError]:
    """What is wrong with shape fields and knobs one by one: names, types, ranges. What they mean together is not asked:
    others may still be chosen."""
    known = {knob.field: knob for knob in (*engine.shape, *engine.knobs)}
    errors: list[TrimtabError] = []
    for name, value in values.items():
        path = f"{field}.{name}"
        error = (
            _check_value(known[name], value, path)
            if name in known
            else unknown(f"{engine.id} knob", name, known, field=path)
        )
        if error is not None:
            errors.append(error)
    return errors


def validate_knobs(
    engine: Engine,
    knobs: Mapping[str, Scalar],
    shape: Mapping[str, Scalar] | None = None,
    *,
    field: str = "knobs",
) -> None:
    """As `check_knobs`, but raises the first error (UnknownName or InvalidSpec)."""
    for error in check_knobs(engine, knobs, shape, field=field):
        raise error


def render_knobs(engine: Engine, knobs: Mapping[str, Scalar]) -> Rendered:
    """Settings that passed `check_knobs`, in the order of the catalogue, so that the same settings always give the
    same command line. Raises UnknownName for a name the engine does not have."""
    known = {knob.field for knob in engine.knobs}
    for name in knobs:
        if name not in known:
            raise unknown(f"{engine.id} knob", name, known, field=f"knobs.{name}")
    return _render([(knob, knobs[knob.field]) for knob in engine.knobs if knob.field in knobs])


def render_shape(engine: Engine, shape: Mapping[str, Scalar]) -> Rendered:
    """Parallel degrees and quantisation. Degrees of 1 are the engines' default and are left out.

    Where the engine's tensor parallel flag means the whole group (`tensor_flag_counts_data_parallel`), tensorParallel
    is written as tensorParallel x dataParallel.
    """
    values = dict(shape)
    if engine.tensor_flag_counts_data_parallel:
        values["tensorParallel"] = _number(shape.get("tensorParallel", 1)) * _number(shape.get("dataParallel", 1))
    chosen = [
        (knob, values[knob.field])
        for knob in engine.shape
        if values.get(knob.field) is not None and values[knob.field] != knob.default
    ]
    return _render(chosen)


def merge(*parts: Rendered) -> Rendered:
    """One command line and one configuration file from several; later parts win in the file."""
    config: dict[str, object] = {}
    for part in parts:
        _merge_into(config, part.config)
    return Rendered(tuple(arg for part in parts for arg in part.args), config)


def _merge_into(target: dict[str, object], extra: Mapping[str, object]) -> None:
    for key, value in extra.items():
        old = target.get(key)
        if isinstance(value, Mapping):
            branch: dict[str, object] = dict(old) if isinstance(old, Mapping) else {}
            _merge_into(branch, value)
            target[key] = branch
        else:
            target[key] = value


def _render(chosen: list[tuple[Knob, Scalar]]) -> Rendered:
    args: list[str] = []
    config: dict[str, object] = {}
    for knob, value in chosen:
        if knob.config_path is not None:
            _merge_into(config, _nested(knob.config_path, (not value) if knob.config_inverted else value))
        elif isinstance(value, bool):
            flag = knob.flag if value else knob.false_flag
            if flag is not None:
                args.append(flag)
        elif knob.bare_above is not None:
            if knob.flag is not None and _number(value) > knob.bare_above:
                args.append(knob.flag)
        elif knob.flag is not None:
            args += [knob.flag, _text(value)]
        if not isinstance(value, bool | str) and value > 1:
            args += knob.with_args
            _merge_into(config, knob.with_config)
    return Rendered(tuple(args), config)


def _nested(path: str, value: object) -> dict[str, object]:
    head, _, rest = path.partition(".")
    return {head: _nested(rest, value) if rest else value}


def _text(value: Scalar) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def _number(value: Scalar) -> int:
    return int(value)


def _check_value(knob: Knob, value: Scalar, path: str) -> InvalidSpec | None:
    if not _has_type(knob, value):
        words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
        return InvalidSpec(f"must be {words[knob.type]}", field=path, value=value, limit=_limit(knob))
    if knob.allowed and value not in knob.allowed:
        return InvalidSpec("not a value the engine knows", field=path, value=value, limit=_limit(knob))
    if isinstance(value, str):
        # Values become arguments of a process: a leading dash would be read as another flag.
        if not value or value.startswith("-") or any(ord(char) < 32 for char in value) or len(value) > 256:
            return InvalidSpec(
                "must be plain text", field=path, value=value, limit="1 to 256 characters, no leading dash"
            )
        return None
    if isinstance(value, bool) or value in knob.special:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return InvalidSpec("must be a finite number", field=path, value=str(value), limit=_limit(knob))
    too_low = knob.minimum is not None and value < knob.minimum
    if too_low or (knob.maximum is not None and value > knob.maximum):
        return InvalidSpec("out of range", field=path, value=value, limit=_limit(knob))
    if knob.multiple_of is not None and value % knob.multiple_of:
        return InvalidSpec("does not fit the step", field=path, value=value, limit=_limit(knob))
    return None


def _check_hardware(knob: Knob, value: Scalar, accelerator: Accelerator, path: str) -> InvalidSpec | None:
    needed = knob.value_needs.get(str(value))
    if needed is None or accelerator.kind != "cpu" or needed in accelerator.instruction_sets:
        return None
    others = ", ".join(item for item in knob.allowed if item not in knob.value_needs)
    return InvalidSpec(
        f"{value} needs {needed}, which {accelerator.id} does not promise", field=path, value=value, limit=others
    )


def _has_type(knob: Knob, value: Scalar) -> bool:
    if knob.type == "bool":
        return isinstance(value, bool)
    if knob.type == "str":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return knob.type == "float" or isinstance(value, int) or value.is_integer()


def _limit(knob: Knob) -> str:
    if knob.allowed:
        return ", ".join(knob.allowed)
    if knob.type == "bool":
        return "true, false"
    if knob.type == "str":
        return "text"
    low, high = ("any" if bound is None else _text(bound) for bound in (knob.minimum, knob.maximum))
    unit = "" if knob.unit == "-" else f" {knob.unit}"
    if knob.multiple_of is not None:
        unit += f", a multiple of {knob.multiple_of}"
    return f"{low} to {high}{unit}" + "".join(f", or {_text(value)}" for value in knob.special)


def _check_rule(
    engine: Engine,
    rule: Rule,
    knobs: Mapping[str, Scalar],
    shape: Mapping[str, Scalar],
    path: str,
) -> InvalidSpec | None:
    def now(name: str) -> Scalar | None:
        for given in (knobs, shape):
            if given.get(name) is not None:
                return given[name]
        knob = engine.knob(name)
        return None if knob is None else knob.default

    value = knobs.get(rule.field, shape.get(rule.field))
    if value is None or value is False:
        return None
    if rule.above is not None and not _number(value) > rule.above:
        return None
    if any(now(name) != wanted for name, wanted in rule.when.items()):
        return None
    if _holds(rule, value, now(rule.other) if rule.other else None, [now(name) for name in rule.others]):
        return None
    parent = path.rpartition(".")[0]
    where = f"{path}.{rule.field}" if rule.field in knobs else f"{parent}.{rule.field}".lstrip(".")
    return InvalidSpec(rule.message, field=where, value=value)


def _holds(rule: Rule, value: Scalar, other: Scalar | None, others: list[Scalar | None]) -> bool:
    product = math.prod(_number(item) for item in others if item is not None)
    if rule.kind == "needs_value":
        return other == rule.value
    if rule.kind == "needs_above":
        return other is not None and rule.value is not None and _number(other) > _number(rule.value)
    if rule.kind == "not_above":
        return other is None or _number(value) <= _number(other)
    if rule.kind == "excludes":
        return other is None or rule.value is None or _number(other) <= _number(rule.value)
    if rule.kind == "above_sum":
        return other is None or _number(other) > sum(_number(item) for item in others if item is not None)
    if rule.kind == "one_or_product":
        return _number(value) in (1, product)
    return product % _number(value) == 0
