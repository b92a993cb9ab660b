"""What is left of a search space once rules and known limits have spoken, by uniform draws."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from controlplane.cli.tune_text import columns
from controlplane.model.errors import InvalidSpec
from controlplane.tuning_jobs import completed
from tuner.search.predicted import cheap_trials
from tuner.search.space import compile_space

if TYPE_CHECKING:
    from controlplane.model.tuning import Margin, SearchSpace, SpaceRule
    from controlplane.model.tuning_job import TuningSpec

_DRAWS = 20_000


def space_check(spec: TuningSpec) -> dict[str, Any]:
    """Raises what makes the job impossible, except that rules leave nothing: then `left_pct` is 0 and `error` says so."""
    error = None
    try:
        spec = completed(spec, cores=len(os.sched_getaffinity(0)))
    except InvalidSpec as found:
        if spec.space is None or found.field != "space.rules":
            raise
        error = str(found)
    assert spec.space is not None
    plain = compile_space(spec.space.model_copy(update={"rules": [], "margins": []}))
    return {
        "parameters": [{"name": axis.name, "range": axis.range_text} for axis in plain.axes],
        "fixed": plain.fixed,
        "settings": None if np.isinf(plain.size) else plain.size,
        "left_pct": 0.0 if error else 100 - _taken_pct(spec.space, spec.space.rules, spec.space.margins),
        "draws": _DRAWS,
        "rules": [
            {"rule": one.expression, "message": one.message, "takes_pct": _taken_pct(spec.space, [one], [])}
            for one in spec.space.rules
        ],
        "margins": [
            {
                "margin": one.expression,
                "slack": one.slack,
                "message": one.message,
                "takes_pct": _taken_pct(spec.space, [], [one]),
            }
            for one in spec.space.margins
        ],
        "cheap_level": None if error else cheap_trials(spec).note,
        "error": error,
    }


def _taken_pct(space: SearchSpace, rules: Sequence[SpaceRule], margins: Sequence[Margin]) -> float:
    """Share of uniform draws that these alone refuse."""
    try:
        compiled = compile_space(space.model_copy(update={"rules": list(rules), "margins": list(margins)}))
    except InvalidSpec:
        return 100.0  # what is wrong otherwise was told before
    rows = compiled.rows_of_points(np.random.default_rng(0).random((_DRAWS, len(compiled.axes))))
    return 100 * float(1 - compiled.allowed(rows).mean())


def checked_text(found: dict[str, Any]) -> str:
    lines = [columns(["PARAMETER", "RANGE"], [[one["name"], one["range"]] for one in found["parameters"]])]
    if found["fixed"]:
        lines.append(f"fixed: {' '.join(f'{name}={value}' for name, value in found['fixed'].items())}")
    size = "endless" if found["settings"] is None else f"at most {found['settings']:.4g}"
    lines.append(f"settings: {size}; {found['left_pct']:.1f} % of the space may be measured ({found['draws']} draws)")
    for one in found["rules"]:
        lines.append(f"  rule {one['rule']}: takes {one['takes_pct']:.1f} % ({one['message']})")
    for one in found["margins"]:
        lines.append(f"  margin {one['margin'][:120]}: takes {one['takes_pct']:.1f} % ({one['message']})")
    if found["cheap_level"]:
        lines.append(f"to begin with: {found['cheap_level']}")
    return "\n".join(lines)
