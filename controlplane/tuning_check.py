"""What is left of a search space once rules and known limits have spoken, by uniform draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import Margin, SearchSpace, SpaceRule
from controlplane.model.tuning_check import CheckedMargin, CheckedParameter, CheckedRule, SpaceCheck
from controlplane.model.tuning_job import TuningSpec
from tuner.search.predicted import cheap_trials
from tuner.search.space import compile_space

_DRAWS = 20_000


def space_check(spec: TuningSpec, complete: Callable[[TuningSpec], TuningSpec]) -> SpaceCheck:
    """`complete` writes the space out. Raises what makes the job impossible, except that rules leave nothing: then
    `left_pct` is 0 and `error` says so."""
    error = None
    try:
        spec = complete(spec)
    except InvalidSpec as found:
        if spec.space is None or found.field != "space.rules":
            raise
        error = str(found)
    assert spec.space is not None
    plain = compile_space(spec.space.model_copy(update={"rules": [], "margins": []}))
    return SpaceCheck(
        parameters=[CheckedParameter(name=axis.name, range=axis.range_text) for axis in plain.axes],
        fixed=plain.fixed,
        settings=None if np.isinf(plain.size) else float(plain.size),
        left_pct=0.0 if error else 100 - _taken_pct(spec.space, spec.space.rules, spec.space.margins),
        draws=_DRAWS,
        rules=[
            CheckedRule(rule=one.expression, message=one.message, takes_pct=_taken_pct(spec.space, [one], []))
            for one in spec.space.rules
        ],
        margins=[
            CheckedMargin(
                margin=one.expression,
                slack=one.slack,
                message=one.message,
                takes_pct=_taken_pct(spec.space, [], [one]),
            )
            for one in spec.space.margins
        ],
        cheap_level=None if error else cheap_trials(spec).note or None,
        error=error,
    )


def _taken_pct(space: SearchSpace, rules: Sequence[SpaceRule], margins: Sequence[Margin]) -> float:
    """Share of uniform draws that these alone refuse."""
    try:
        compiled = compile_space(space.model_copy(update={"rules": list(rules), "margins": list(margins)}))
    except InvalidSpec:
        return 100.0  # what is wrong otherwise was told before
    rows = compiled.rows_of_points(np.random.default_rng(0).random((_DRAWS, len(compiled.axes))))
    return 100 * float(1 - compiled.allowed(rows).mean())
