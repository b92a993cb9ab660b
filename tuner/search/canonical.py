"""What a setting resolves to, and its hash: settings that make the same engine are samples of one configuration.

A hit in the cache is another sample of the same point, never a free result: the store counts them together and the
sampler is told each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from controlplane.catalog import Engine, load
from controlplane.catalog.engines import Rule
from controlplane.model.tuning import Setting, Value
from controlplane.model.tuning_job import EngineTarget, TuningSpec


def canonical_of(spec: TuningSpec) -> Callable[[Setting], str]:
    """The hash of what a setting of this job resolves to: 64 hexadecimal digits, alike in every process.

    Raises UnknownName for an engine that the catalogue does not have."""
    # What only says where to look does not change what runs.
    target = spec.target.model_dump(mode="json", by_alias=True, exclude={"serves", "training", "devices"})
    if not isinstance(spec.target, EngineTarget):
        return lambda setting: digest({"target": target, "setting": _plain(setting)})
    engine = load().engine(spec.target.engine, field="target.engine")
    fixed = dict(spec.target.shape)
    facts = {"target": target, "version": engine.version}
    return lambda setting: digest({**facts, "setting": _plain(resolved(engine, {**fixed, **setting}))})


def resolved(engine: Engine, setting: Mapping[str, Value], *, requests_most: int | None = None) -> Setting:
    """Every knob and degree that says something, with the catalogue's default where the setting is silent. What has no
    effect beside the others is left out. `requests_most`: more than the KV cache holds at once run no more."""
    out: Setting = {}
    for knob in (*engine.shape, *engine.knobs):
        value = setting.get(knob.field, knob.default)
        if value is not None:
            out[knob.field] = value
    for name, value in setting.items():
        out.setdefault(name, value)
    for rule in engine.rules:
        if _moot(rule, out):
            del out[rule.field]
    most = out.get("maxNumSeqs")
    if requests_most is not None and isinstance(most, int) and most > requests_most:
        out["maxNumSeqs"] = requests_most
    return out


def digest(value: Mapping[str, Any]) -> str:
    """SHA-256 of its JSON with sorted names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _moot(rule: Rule, setting: Mapping[str, Value]) -> bool:
    """A knob that counts only beside another value, without it. A rule on some of its values refuses those alone."""
    return (
        rule.kind == "needs_value"
        and not rule.when
        and rule.field in setting
        and rule.other is not None
        and setting.get(rule.other) != rule.value
    )


def _plain(setting: Mapping[str, Value]) -> dict[str, Value]:
    """2.0 and 2 are one number; True is none."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in setting.items()
    }
