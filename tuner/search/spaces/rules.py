"""The catalogue's refused combinations as rules of a space: the same words, over what is searched."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from controlplane.catalog.engines import Engine, Rule, Scalar
from controlplane.model.tuning import SpaceRule, Value

# Kinds whose condition does not speak about the field itself.
_SILENT = {"needs_value", "needs_above", "excludes", "above_sum"}


def rules_of(engine: Engine, searched: Collection[str], fixed: Mapping[str, Value]) -> list[SpaceRule]:
    """One per rule of the engine that speaks about something searched or fixed. Names that are neither count with the
    engine's default, as the catalogue counts them."""
    out = []
    for rule in engine.rules:
        if rule.field not in searched and rule.field not in fixed:
            continue
        if not {rule.field, rule.other, *rule.others, *rule.when} & set(searched):
            continue
        holds = _holds(engine, rule, searched, fixed)
        if holds is None:
            continue
        looked_at = [rule.field] if _is_bool(engine, rule.field) else []
        if rule.above is not None:
            looked_at.append(f"{rule.field} > {_literal(rule.above)}")
        looked_at += [
            f"{_now(engine, name, searched, fixed)} == {_literal(value)}" for name, value in rule.when.items()
        ]
        if not looked_at and rule.field not in {rule.other, *rule.others} and rule.kind in _SILENT:
            # Named, so that the rule counts only where the parameter does.
            looked_at.append(f"{rule.field} == {rule.field}")
        expression = f"not ({' and '.join(looked_at)}) or {holds}" if looked_at else holds
        out.append(SpaceRule(expression=expression, message=rule.message))
    return out


def _holds(engine: Engine, rule: Rule, searched: Collection[str], fixed: Mapping[str, Value]) -> str | None:
    """None: nothing to check, because the engine decides the other value itself."""
    other = None if rule.other is None else _now(engine, rule.other, searched, fixed)
    parts = [now for name in rule.others if (now := _now(engine, name, searched, fixed)) is not None]
    if rule.kind == "one_or_product":
        return f"({rule.field} == 1 or {rule.field} == {' * '.join(parts) or '1'})"
    if rule.kind == "divides_product":
        return f"({' * '.join(parts) or '1'}) % {rule.field} == 0"
    if other is None:
        return "False" if rule.kind in {"needs_value", "needs_above"} else None
    if rule.kind == "above_sum":
        return f"{other} > {' + '.join(parts) or '0'}"
    if rule.kind == "not_above":
        return f"{rule.field} <= {other}"
    value = _literal(rule.value if rule.value is not None else 0)
    return f"{other} {({'needs_value': '==', 'needs_above': '>', 'excludes': '<='})[rule.kind]} {value}"


def _now(engine: Engine, name: str, searched: Collection[str], fixed: Mapping[str, Value]) -> str | None:
    if name in searched or name in fixed:
        return name
    knob = engine.knob(name)
    return None if knob is None or knob.default is None else _literal(knob.default)


def _is_bool(engine: Engine, name: str) -> bool:
    knob = engine.knob(name)
    return knob is not None and knob.type == "bool"


def _literal(value: Scalar) -> str:
    return repr(value)
