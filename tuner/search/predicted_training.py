"""The training predictor as a cheap level: what it expects of settings of a training command that nobody has run yet.

It costs microseconds a setting, so that nearly all of a small space are asked about. Only differences between settings
count: the sampler learns how much of them holds on the hardware at hand.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from controlplane.model.errors import TrimtabError
from controlplane.model.training import TrainingCase
from controlplane.model.tuning import Setting, Told, Verdict
from controlplane.model.tuning_job import CommandTarget, TuningSpec
from tuner.search.predicted import CheapTrials, followed, violations
from tuner.search.space import compile_space
from tuner.search.training_metrics import Expected, known_metric
from tuner.search.training_room import known_of
from tuner.search.training_runs import TrainingRuns, fullest_bytes, runs_of
from tuner.training.constants import shipped
from tuner.training.evaluate import times

# Settings that are drawn; the same twice is asked about once.
DRAWN = 2048
_PREDICTED_LEAST = 4
_NOTE_MAX = 400


def training_trials(spec: TuningSpec) -> CheapTrials:
    """What the predictor expects of many settings of the space, which is written out. The same spec gives the same
    trials."""
    return _trials(spec.model_dump_json(by_alias=True))


@lru_cache(maxsize=32)
def _trials(spec_json: str) -> CheapTrials:
    spec = TuningSpec.model_validate_json(spec_json)
    assert isinstance(spec.target, CommandTarget) and spec.target.training is not None
    if spec.space is None:
        return CheapTrials((), "no predictor knows what is tuned")
    for objective in spec.objectives:
        if known_metric(objective.metric) is None:
            return CheapTrials((), f"no predictor is asked: it has no {objective.metric}"[:_NOTE_MAX])
    try:
        runs = runs_of(spec.target.training)
    except TrimtabError as error:  # hardware without figures, or a name that the catalogue has forgotten since
        return CheapTrials((), f"no predictor is asked: {error}"[:_NOTE_MAX])
    space = compile_space(spec.space, known=known_of(spec))
    rows = space.draw(np.random.default_rng((spec.seed, 0xC4EA9)), DRAWN)
    settings: list[Setting] = []
    seen = set()
    for i in range(len(rows)):
        setting = space.setting(rows, i)
        key = tuple(setting.items())
        if key not in seen:
            seen.add(key)
            settings.append(setting)
    found = _told(spec, runs, settings)
    if len(found) < _PREDICTED_LEAST:
        return CheapTrials((), f"the predictor knows only {len(found)} settings of this: it is not followed")
    what = f"for training {runs.model} on {runs.run.devices} x {runs.accelerator}"
    return followed(found, spec, what, kept="fit and keep every limit" if spec.limits else "fit")


def _told(spec: TuningSpec, runs: TrainingRuns, settings: list[Setting]) -> list[Told]:
    """Trials as the predictor expects them. Settings that it cannot cost are left out."""
    cases: list[TrainingCase] = []
    kept: list[Setting] = []
    for setting in settings:
        try:
            cases.append(runs.case(setting))
        except TrimtabError:
            continue
        kept.append(setting)
    if not cases:
        return []
    time, bytes_ = times(cases, shipped()), fullest_bytes(cases)
    out = []
    for i, (case, setting) in enumerate(zip(cases, kept, strict=True)):
        expected = Expected(
            case, float(time.seconds[i]), float(time.computing_s[i]), float(time.exposed_comm_s[i]), float(bytes_[i])
        )
        values = [_value(one.metric, expected) for one in spec.objectives]
        if any(value is None for value in values):
            continue
        over = violations(spec, partial(_value, expected=expected))
        over.append((expected.bytes - runs.capacity_bytes) / 2**30)  # what is expected not to fit is no place to begin
        known = [value for value in values if value is not None]
        out.append(Told(number=i, setting=setting, verdict=Verdict.OK, values=known, violation=over))
    return out


def _value(metric: str, expected: Expected) -> float | None:
    known = known_metric(metric)
    return None if known is None else known.of(expected)
