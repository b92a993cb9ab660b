"""The door to Optuna: one ask of one of its samplers, over a study made of trials we hand it.

Optuna keeps nothing between asks. A study in memory is made of a bounded number of trials, asked once and thrown away,
so the same trials and seed give the same setting in any process, and an ask costs the same in a long study.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from controlplane.model.tuning import Objective, Setting, Told, Value, Verdict
from tuner.search.axis import Axis
from tuner.search.space import Space

# Asks until a setting keeps the rules; then a random one does.
_TRIES = 16
_DIRECTIONS = {"maximize": optuna.study.StudyDirection.MAXIMIZE, "minimize": optuna.study.StudyDirection.MINIMIZE}

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, slots=True)
class Asked:
    """`chosen` False: nothing it proposed kept the rules, the setting is a random one."""

    setting: Setting
    chosen: bool


def ask(
    space: Space,
    objectives: Sequence[Objective],
    trials: Sequence[Told],
    sampler: Callable[[], optuna.samplers.BaseSampler],
    seed: int,
    number: int,
    marks: Mapping[str, Any] | None = None,
) -> Asked:
    """`trials` that ended are complete, with their limits as constraints; the others are running. `marks`: what the
    sampler itself would have noted with each."""
    with warnings.catch_warnings():
        # Notes on features marked experimental; nobody who reads them could act.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            directions=[_DIRECTIONS[objective.direction] for objective in objectives], sampler=sampler()
        )
        worst = _worst(objectives, trials)
        for told in trials:
            study.add_trial(_frozen(space, told, worst, marks or {}))
        for _ in range(_TRIES):
            trial = study.ask()
            setting = _suggested(space, trial)
            if setting is not None and space.broken_rule(setting) is None:
                return Asked(setting, True)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    rows = space.draw(np.random.default_rng((seed, number)), 1)
    return Asked(space.setting(rows, 0), False)


def _frozen(space: Space, told: Told, worst: list[float], marks: Mapping[str, Any]) -> optuna.trial.FrozenTrial:
    parameters = {axis.name: told.setting[axis.name] for axis in space.axes if axis.name in told.setting}
    distributions = {axis.name: _distribution(axis) for axis in space.axes if axis.name in told.setting}
    parameters = {name: _plain(space, name, value) for name, value in parameters.items()}
    if told.verdict is None:
        running = optuna.trial.TrialState.RUNNING
        return optuna.trial.create_trial(state=running, params=parameters, distributions=distributions)
    ok = told.verdict is Verdict.OK
    constraints = {f"limit{i}": value for i, value in enumerate(told.violation)}
    return optuna.trial.create_trial(
        values=told.values[: len(worst)] if ok else worst,
        params=parameters,
        distributions=distributions,
        system_attrs=dict(marks),
        constraints={"works": -1.0 if ok else 1.0, **constraints},
    )


def _suggested(space: Space, trial: optuna.trial.Trial) -> Setting | None:
    """One value after the other, so that conditions may look at the earlier ones."""
    out: Setting = dict(space.fixed)
    for axis in space.axes:
        if not space.is_active(axis, out):
            continue
        if axis.kind == "choice":
            out[axis.name] = axis.choices[trial.suggest_categorical(axis.name, list(range(len(axis.choices))))]
        elif axis.kind == "int":
            step = axis.step if not axis.log else 1
            out[axis.name] = trial.suggest_int(axis.name, int(axis.low), _last(axis), step=step, log=axis.log)
        else:
            out[axis.name] = trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)
    return out


def _distribution(axis: Axis) -> optuna.distributions.BaseDistribution:
    if axis.kind == "choice":
        return optuna.distributions.CategoricalDistribution(list(range(len(axis.choices))))
    if axis.kind == "int":
        step = axis.step if not axis.log else 1
        return optuna.distributions.IntDistribution(int(axis.low), _last(axis), log=axis.log, step=step)
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def _last(axis: Axis) -> int:
    """The last step of a range: Optuna warns of an end that is none."""
    return int(axis.low) + (int(axis.high) - int(axis.low)) // axis.step * axis.step


def _plain(space: Space, name: str, value: Value) -> Value:
    """Choices go by their place: True and 1, or a word of ours, mean nothing to Optuna."""
    axis = next(axis for axis in space.axes if axis.name == name)
    return axis.place_of(value) if axis.kind == "choice" else value


def _worst(objectives: Sequence[Objective], trials: Sequence[Told]) -> list[float]:
    """What a trial that did not work is told with: the worst that was measured."""
    measured = [told.values for told in trials if told.verdict is Verdict.OK]
    out = []
    for j, objective in enumerate(objectives):
        values = [values[j] for values in measured]
        out.append(0.0 if not values else min(values) if objective.direction == "maximize" else max(values))
    return out
