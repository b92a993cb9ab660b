"""What is left of a search space once rules and known limits have spoken, by uniform draws."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.tuning import Margin, SearchSpace, SpaceRule, Told, Value
from controlplane.model.tuning_check import CheckedMargin, CheckedParameter, CheckedRule, FirstSetting, SpaceCheck
from controlplane.model.tuning_job import TuningSpec
from controlplane.tuning_jobs import sampler_of
from controlplane.tuning_training import known_of
from tuner.search.axis import Axis
from tuner.search.predicted import cheap_trials
from tuner.search.space import Known, compile_space

_DRAWS = 20_000
_FIRST = 5
_NAMED = re.compile(r"^not \((\w+) == \1\) or ")


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
    known = known_of(spec)
    plain = compile_space(spec.space.model_copy(update={"rules": [], "margins": []}))
    return SpaceCheck(
        parameters=[CheckedParameter(name=axis.name, range=axis.range_text) for axis in plain.axes if axis.size != 1],
        fixed=plain.fixed | {axis.name: _only(axis) for axis in plain.axes if axis.size == 1},
        settings=None if np.isinf(plain.size) else float(plain.size),
        left_pct=0.0 if error else 100 - _taken_pct(spec.space, spec.space.rules, spec.space.margins, known),
        draws=_DRAWS,
        rules=[
            CheckedRule(rule=_shown(one.expression), message=one.message, takes_pct=_taken_pct(spec.space, [one], []))
            for one in spec.space.rules
        ]
        + [
            CheckedRule(
                rule=_shown(rule.text),
                message=message,
                takes_pct=_taken_pct(spec.space, known=Known(((rule, message),))),
            )
            for rule, message in known.rules
        ],
        margins=[
            CheckedMargin(
                margin=one.expression,
                slack=one.slack,
                message=one.message,
                takes_pct=_taken_pct(spec.space, [], [one]),
            )
            for one in spec.space.margins
        ]
        + [
            CheckedMargin(
                margin=margin.text,
                slack=one.slack,
                message=one.message,
                takes_pct=_taken_pct(spec.space, known=Known((), ((margin, one),))),
            )
            for margin, one in known.margins
        ],
        cheap_level=None if error else cheap_trials(spec).note or None,
        first=[] if error else _first(spec),
        error=error,
    )


def _shown(rule: str) -> str:
    """Without the parameter that an engine's rule only names, so that it counts where the parameter does."""
    return _NAMED.sub("", rule)


def _only(axis: Axis) -> Value:
    value: Value = axis.choices[0] if axis.kind == "choice" else axis.python(axis.low)
    return value


def _first(spec: TuningSpec) -> list[FirstSetting]:
    """What would be measured before anything is known of the results."""
    sampler, out = sampler_of(spec), []
    for number in range(min(_FIRST, spec.budget.trials)):
        try:
            proposal = sampler.ask(number)
        except TrimtabError:
            break  # a space with fewer settings
        sampler.tell(Told(number=number, setting=proposal.setting))
        out.append(FirstSetting(setting=proposal.setting, why=proposal.reason))
    return out


def _taken_pct(
    space: SearchSpace,
    rules: Sequence[SpaceRule] = (),
    margins: Sequence[Margin] = (),
    known: Known | None = None,
) -> float:
    """Share of uniform draws that these alone refuse."""
    try:
        compiled = compile_space(space.model_copy(update={"rules": list(rules), "margins": list(margins)}), known=known)
    except InvalidSpec:
        return 100.0  # what is wrong otherwise was told before
    rows = compiled.rows_of_points(np.random.default_rng(0).random((_DRAWS, len(compiled.axes))))
    return 100 * float(1 - compiled.allowed(rows).mean())
