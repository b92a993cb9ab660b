"""The serving predictor as a cheap level: what it expects of settings that nobody has measured yet.

Its figures are computed as a measurement's are (`tuner.measure.definitions`), from a replay of the job's own load. Only
differences between settings count: the sampler learns how much of them holds on the hardware at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from controlplane.catalog import load
from controlplane.model.errors import TrimtabError, UnknownName
from controlplane.model.tuning import Setting, Told, Verdict
from controlplane.model.tuning_job import CommandTarget, DeploymentTarget, EngineTarget, TuningSpec
from tuner.search.space import compile_space
from tuner.serving.resolve import find_accelerator, find_model

if TYPE_CHECKING:
    from tuner.serving.replay.result import ReplayResult

# Settings that are predicted. After the first (0.5 to 1.3 s: tables, a compiled replay) each takes about 3 ms here.
SETTINGS = 64
# Requests of one replay, at most: percentiles of more would not move where to look.
_REQUESTS_MAX = 400
# Expectations that differ by less say nothing about where to look.
_LEAST_SPREAD = 0.005
_PREDICTED_LEAST = 8
_NOTE_MAX = 400

# Shape fields of the engines -> fields of a question to the predictor.
_DEGREES = {
    "tensorParallel": "tp",
    "pipelineParallel": "pp",
    "dataParallel": "attention_dp",
    "expertParallel": "moe_ep",
}
_CORES = "numThreads"


@dataclass(frozen=True, slots=True)
class CheapTrials:
    """`note`: what they are, or why there are none."""

    trials: tuple[Told, ...]
    note: str


def known_names(target: EngineTarget) -> tuple[str | None, str | None]:
    """(model, accelerator) as the catalogue names them; None where nobody says. Raises UnknownName for a name that was
    given as one of the catalogue's and is none."""
    catalog = load()
    accelerator = None
    if target.accelerator is not None:
        accelerator = find_accelerator(catalog, target.accelerator, field="target.accelerator").id
    if target.catalog_model is not None:
        return find_model(catalog, target.catalog_model, field="target.catalogModel").id, accelerator
    path = PurePosixPath(target.model)
    for word in (target.model, path.name, path.stem):
        try:
            return find_model(catalog, word).id, accelerator
        except UnknownName:
            continue
    return None, accelerator


def cheap_trials(spec: TuningSpec) -> CheapTrials:
    """What the predictor expects of some settings of the space, which is written out. The same spec gives the same
    trials."""
    if isinstance(spec.target, CommandTarget) and spec.target.training is not None:
        from tuner.search.predicted_training import training_trials  # noqa: PLC0415 - another predictor: only where asked

        return training_trials(spec)
    if isinstance(spec.target, DeploymentTarget) and spec.target.serves is not None:
        spec = spec.model_copy(update={"target": spec.target.serves})
    return _cheap(spec.model_dump_json(by_alias=True))


@lru_cache(maxsize=32)
def _cheap(spec_json: str) -> CheapTrials:
    spec = TuningSpec.model_validate_json(spec_json)
    if not isinstance(spec.target, EngineTarget) or spec.space is None:
        return CheapTrials((), "no predictor knows what is tuned")
    try:
        model, accelerator = known_names(spec.target)
    except UnknownName as error:  # was known when the job was made, by the catalogue of another version
        return CheapTrials((), f"no predictor is asked: {error}"[:_NOTE_MAX])
    if accelerator is None:
        return CheapTrials((), "no predictor is asked: target.accelerator is not named")
    if load().accelerator(accelerator).kind == "cpu":
        # Roofs alone led astray: 12.4 and 13.6 trials to a good setting on the two recorded grids of
        # tests/perf/tune_openvino.py (25 seeds); 9.0 and 12.8 without, 2.3 and 4.7 with a fitted simulator (100 seeds).
        return CheapTrials(
            (), f"no predictor is followed: of {accelerator} the catalogue has peaks and no measured times"
        )
    if model is None:
        return CheapTrials(
            (),
            "no predictor is asked: the catalogue does not know the model; name target.catalogModel, or spec.model.name of a deployment",
        )
    if spec.load.arrivals == "trace":
        return CheapTrials((), "no predictor is asked: a trace is read where trials run")
    space = compile_space(spec.space)
    rows = space.draw(np.random.default_rng((spec.seed, 0xC4EA9)), SETTINGS)
    expect = expectation(spec, model, accelerator)
    found, failed = [], ""
    for i in range(len(rows)):
        setting = space.setting(rows, i)
        try:
            told = expect(setting, i)
        except TrimtabError as error:
            failed = failed or str(error)
            continue
        if isinstance(told, str):
            return CheapTrials((), told)
        found.append(told)
    if len(found) < _PREDICTED_LEAST:
        return CheapTrials((), f"the predictor knows too little of this: {failed}"[:_NOTE_MAX])
    return followed(found, spec, f"for {model} on {accelerator}")


def followed(found: list[Told], spec: TuningSpec, what: str, *, kept: str = "keep every limit") -> CheapTrials:
    """Expectations with their limits as the cheap level knows them; none where they say nothing about where to look.
    `kept`: what a setting does whose violations are not above 0."""
    broken = [any(value > 0 for value in told.violation) for told in found]
    if all(broken):
        return CheapTrials((), f"the predictor expects no setting to {kept}: it is not followed")
    found = _limited(found, spec)
    values = np.array([told.values for told in found])
    if float(np.max(np.ptp(values, axis=0) / np.maximum(np.abs(values).max(axis=0), 1e-12))) < _LEAST_SPREAD:
        return CheapTrials(
            (),
            f"the predictor expects the same of all settings{f' that {kept}' if any(broken) else ''}: it is not followed",
        )
    return CheapTrials(tuple(found), f"{len(found)} predictions {what}"[:_NOTE_MAX])


def violations(spec: TuningSpec, value_of: Callable[[str], float | None]) -> list[float]:
    """By how much each limit is expected to be broken, not above 0: kept. Limits without an expected value are left out."""
    over = []
    for limit in spec.limits:
        value = value_of(limit.metric)
        if value is not None and limit.at_most is not None:
            over.append(value - limit.at_most)
        elif value is not None and limit.at_least is not None:
            over.append(limit.at_least - value)
    return over


def _limited(found: list[Told], spec: TuningSpec) -> list[Told]:
    """A setting that is expected to break a limit counts like the worst: the cheap level knows values alone."""
    columns = list(zip(*(told.values for told in found), strict=True))
    worst = [
        min(column) if objective.direction == "maximize" else max(column)
        for column, objective in zip(columns, spec.objectives, strict=True)
    ]
    return [
        told.model_copy(update={"values": worst}) if any(value > 0 for value in told.violation) else told
        for told in found
    ]


def expectation(spec: TuningSpec, model: str, accelerator: str) -> Callable[[Setting, int], Told | str]:
    """A setting's trial as the predictor expects it, or what it has no figure for. Raises TrimtabError where it cannot
    say anything about the setting."""
    from tuner.serving.predict import Predictor  # noqa: PLC0415 - tables and a compiled replay: only where asked
    from tuner.serving.question import parse_question  # noqa: PLC0415

    assert isinstance(spec.target, EngineTarget)
    predictor = Predictor()
    fixed: dict[str, Any] = dict(spec.target.shape)
    asked = {
        "model": model,
        "system": accelerator,
        "backend": spec.target.engine,
        **load_fields(spec),
        "seed": spec.seed,
    }

    def told(setting: Setting, number: int) -> Told | str:
        whole = {**fixed, **setting}
        question = parse_question(asked | engine_fields(whole))
        metrics = _metrics(predictor.predict(question).result, spec)
        values = []
        for objective in spec.objectives:
            value = metrics.get(objective.metric)
            if value is None:
                return f"no predictor is asked: it has no {objective.metric}"
            values.append(value)
        over = violations(spec, metrics.get)
        return Told(number=number, setting=setting, verdict=Verdict.OK, values=values, violation=over)

    return told


def load_fields(spec: TuningSpec) -> dict[str, Any]:
    """Load and lengths of a question to the predictor; not of a trace."""
    load_ = spec.load
    assert load_.input is not None and load_.output is not None
    kind, rate = load_.arrivals, load_.rate_per_second
    arrivals = {kind: load_.concurrency if kind == "closed" else rate} | ({"cv": load_.cv} if kind == "gamma" else {})
    return {
        "isl": load_.input.tokens,
        "isl_range": load_.input.range_ratio,
        "osl": load_.output.tokens,
        "osl_range": load_.output.range_ratio,
        "prefix": load_.shared_prefix_tokens or None,
        "arrivals": arrivals,
        "requests": min(spec.measuring.requests, _REQUESTS_MAX),
    }


def engine_fields(setting: Mapping[str, Any], *, cpu: bool = False) -> dict[str, Any]:
    """Degrees, cores of a CPU, and knobs of a question."""
    out: dict[str, Any] = {"tp": 1} | {_DEGREES[name]: value for name, value in setting.items() if name in _DEGREES}
    if cpu and isinstance(setting.get(_CORES), int):
        out["cores"] = setting[_CORES]
    return out | {"knobs": {name: value for name, value in setting.items() if name not in _DEGREES}}


def _metrics(result: ReplayResult, spec: TuningSpec) -> Mapping[str, float | None]:
    """As they would have been measured."""
    from tuner.measure.definitions import metrics_of  # noqa: PLC0415
    from tuner.measure.loadgen.job import Sample  # noqa: PLC0415

    samples = [
        Sample(
            number=i, intended_s=float(at), sent_s=float(at), first_s=None if no else float(first),
            last_s=None if no else float(done), prompt_tokens=int(isl), output_tokens=int(osl),
            error="refused" if no else "",
        )
        for i, (at, first, done, isl, osl, no) in enumerate(
            zip(
                result.arrival_s, result.first_token_s, result.done_s, result.isl, result.osl, result.refused,
                strict=True,
            )
        )
    ]  # fmt: skip
    return metrics_of(samples, spec.slo)
