"""What a tuning job is made from, alike for every face and driver: its space, sampler, hash, baseline and end.

A job is checked and its space written out when it is created, so that it means the same in every process and version.
"""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.catalog import load
from controlplane.catalog.knobs import check_knobs
from controlplane.catalog.loader import unknown
from controlplane.model.errors import InvalidSpec, TrimtabError, Unsupported
from controlplane.model.ports import Sampler
from controlplane.model.tuning import Setting, TrialPurpose
from controlplane.model.tuning_decision import Importance, TuningDecision
from controlplane.model.tuning_job import (
    CommandTarget,
    DeploymentTarget,
    EngineTarget,
    RequestSlo,
    StartPoint,
    TuningSpec,
)
from controlplane.model.tuning_records import Ask, TrialRecord, told_of
from controlplane.tuning_engine import check_engine, check_short_run, check_some_setting
from controlplane.tuning_training import check_training, known_of
from tuner.decision import confirm_asks, decide
from tuner.search.canonical import canonical_of
from tuner.search.predicted import cheap_trials, known_names
from tuner.search.question import SAMPLERS, Question, make_sampler
from tuner.search.space import Space, compile_space
from tuner.search.spaces.engine import EngineFacts, check_fits
from tuner.search.study_sampler import carried_over
from tuner.search.study_sampler import space_of as search_space

# No engine answers faster: whoever writes less meant seconds.
_LEAST_TTFT_MS, _LEAST_TPOT_MS = 1.0, 0.01
# Below this share of unseen trials explained, a model of what mattered says nothing.
_LEAST_EXPLAINED = 0.5
# Of `tuner.measure.agreement`, whose imports are for those who measure.
AGREEMENT = frozenset({"token_agreement", "logprob_gap_mean"})
_SLO_METRICS = ("goodput_per_s", "attainment", "attainment_lo", "attainment_hi")
# Beside all that end in _ms: what nobody wants more of. `maximize` is the default, so a word left out would tune for the worst.
_LESS_IS_BETTER = ("failed_requests", "energy_j", "power_mean_w", "joule_per_output_token")


def completed(
    spec: TuningSpec, *, cores: int | None = None, devices: int = 1, held: Setting | None = None
) -> TuningSpec:
    """The spec with its space written out, checked as far as it can be without a measurement. `cores`, `devices`: what
    one trial may use where the target does not say; `held`: what it runs with where the space says nothing. Raises
    UnknownName, InvalidSpec or Unsupported with the field."""
    if isinstance(spec.target, DeploymentTarget):
        raise Unsupported(
            "trials on a deployment need pods of their own",
            field="target.kind",
            value="deployment",
            limit="engine, command",
            hint="name the deployment's engine and model",
        )
    check_engine(spec)
    facts = _facts(spec, cores, devices)
    if facts is not None and spec.space is not None:
        check_fits(facts, spec.space.model_copy(update={"fixed": {**(held or {}), **spec.space.fixed}}))
    own = spec.space is not None
    spec = spec.model_copy(update={"space": search_space(spec, facts)})
    check_training(spec, own_space=own)
    space = space_of(spec)
    if own and isinstance(spec.target, EngineTarget):
        check_some_setting(spec.target, space, held or {}, spec.seed)
    _check_metrics(spec)
    _check_slo(spec.slo)
    check_short_run(spec)
    SAMPLERS.get(spec.sampler, field="sampler")
    _check_baseline(spec)
    for i, point in enumerate(spec.start_with):
        if not carried_over(space, [point]):
            raise InvalidSpec(
                "lies outside the space", field=f"startWith[{i}].setting", value=str(point.setting)[:200],
                limit="a value for each parameter of the space, within its range and rules",
            )  # fmt: skip
    if isinstance(spec.target, CommandTarget):
        names = {axis.name for axis in space.axes} | set(space.fixed)
        if not any(f"{{{name}}}" in word for name in names for word in spec.target.command):
            raise InvalidSpec(
                "uses no parameter of the space: every trial would be the same",
                field="target.command",
                limit=", ".join(f"{{{name}}}" for name in sorted(names)),
            )
    return spec


def space_of(spec: TuningSpec) -> Space:
    """Raises InvalidSpec."""
    if spec.space is None:
        raise InvalidSpec("is needed", field="space", hint="only an engine brings a space of its own")
    return compile_space(spec.space, known=known_of(spec))


def sampler_of(spec: TuningSpec) -> Sampler:
    """The job's sampler without history. It begins with the configuration in use, if that lies in the space."""
    from tuner.search.fitted import simulator_of  # noqa: PLC0415 - what a replay needs: only where a study is driven

    space = space_of(spec)
    first: tuple[Setting, ...] = ()
    if spec.baseline:
        try:
            first = (space.checked({**space.fixed, **spec.baseline}),)
        except TrimtabError:
            first = ()  # it is measured for comparison all the same
    points = [StartPoint(setting=one, origin="the configuration in use") for one in first]
    points = carried_over(space, [*points, *spec.start_with], len(points) + len(spec.start_with))
    cheap = cheap_trials(spec)
    simulator = None if cheap.trials else simulator_of(spec, space)
    question = Question(
        space=space,
        objectives=tuple(spec.objectives),
        seed=spec.seed,
        first=tuple(point.setting for point in points),
        origins=tuple(point.origin for point in points),
        cheap=cheap.trials,
        cheap_note=cheap.note,
        simulator=None if isinstance(simulator, str) else simulator,
    )
    return make_sampler(spec.sampler, question)


def baseline_of(spec: TuningSpec) -> Setting | None:
    """What the winner is compared with. None: a command without a stated baseline has none. A deployment's is whole:
    what it serves with, also where the space fixes something else."""
    if isinstance(spec.target, DeploymentTarget):
        return dict(spec.baseline)
    fixed: Setting = dict(spec.space.fixed) if spec.space is not None else {}
    if isinstance(spec.target, EngineTarget) or spec.baseline:
        return {**fixed, **spec.baseline}
    return None


class Confirmation:
    """Fulfils the driver's `Closing`: rounds of the best and the configuration in use, then the decision."""

    def asks(self, spec: TuningSpec, trials: Sequence[TrialRecord]) -> list[Ask]:
        return confirm_asks(spec, trials, baseline_of(spec), canonical_of(spec), lambda: _recommended(spec, trials))

    def decision(self, spec: TuningSpec, trials: Sequence[TrialRecord]) -> TuningDecision:
        shares, note = _mattered(spec, trials)
        return decide(spec, trials, shares, note)


def _recommended(spec: TuningSpec, trials: Sequence[TrialRecord]) -> Setting | None:
    """What the default sampler's model would hand over of these trials, whoever proposed them. None: several objectives
    have no single best."""
    if len(spec.objectives) > 1:
        return None
    from tuner.search.samplers.default import DefaultSampler  # noqa: PLC0415 - the surrogate: only where asked

    sampler = DefaultSampler(Question(space=space_of(spec), objectives=tuple(spec.objectives), seed=spec.seed))
    for trial in trials:
        if trial.purpose is TrialPurpose.SEARCH:
            sampler.tell(told_of(trial))
    return sampler.recommend()


def _mattered(spec: TuningSpec, trials: Sequence[TrialRecord]) -> tuple[list[Importance], str]:
    """Importance over the space, and how far to trust it."""
    from tuner.search.importance import importance  # noqa: PLC0415 - the surrogate: only where asked

    told = [told_of(trial) for trial in trials if trial.purpose is TrialPurpose.SEARCH]
    try:
        found = importance(space_of(spec), spec.objectives, told)
    except InvalidSpec as error:
        return [], f"What mattered is unknown: {error}"
    trust = "believe nothing of it" if found.explained < _LEAST_EXPLAINED else "over the whole space, not near the best"
    shares = [Importance(parameter=name, share=share) for name, share in found.shares]
    return (
        shares,
        f"From a model that explains {found.explained:.0%} of {found.trials} trials it had not seen; {trust}.",
    )


def _facts(spec: TuningSpec, cores: int | None, devices: int) -> EngineFacts | None:
    if not isinstance(spec.target, EngineTarget):
        return None
    lengths = [one.tokens for one in (spec.load.input, spec.load.output) if one is not None]
    model, accelerator = known_names(spec.target)
    return EngineFacts(
        engine=spec.target.engine,
        model=model if accelerator is not None else None,
        accelerator=accelerator,
        devices=spec.target.devices or devices,
        cores=cores,
        longest_tokens=sum(lengths) if len(lengths) == 2 else 4096,
        fixed=dict(spec.target.shape),
        may_change_output=spec.may_change_output,
    )


def _check_metrics(spec: TuningSpec) -> None:
    names = [f"objectives[{i}].metric" for i in range(len(spec.objectives))]
    wanted = [one.metric for one in spec.objectives]
    for i, metric in enumerate(wanted):
        if metric in wanted[:i]:
            raise InvalidSpec("stands twice", field=names[i], value=metric)
    if not isinstance(spec.target, EngineTarget):
        return  # a command may print what it likes
    known = engine_metrics()
    if spec.space is not None and any(one.changes_output for one in spec.space.parameters):
        known |= AGREEMENT
    for i, limit in enumerate(spec.limits):
        if limit.metric in AGREEMENT - known:
            raise InvalidSpec(
                "is measured only where a searched parameter can change answers", field=f"limits[{i}].metric",
                value=limit.metric, hint="allow one with mayChangeOutput, or leave the limit out",
            )  # fmt: skip
    names += [f"limits[{i}].metric" for i in range(len(spec.limits))]
    for field, metric in zip(names, wanted + [one.metric for one in spec.limits], strict=True):
        if metric not in known:
            raise unknown("metric", metric, known, field=field)
        if metric in _SLO_METRICS and spec.slo is None:
            raise InvalidSpec(
                f"{metric} counts requests that keep an SLO, and there is none",
                field="slo",
                hint="say what one request must keep: ttftMs, tpotMs or e2eMs",
            )
    for i, one in enumerate(spec.objectives):
        if one.direction == "maximize" and (one.metric.endswith("_ms") or one.metric in _LESS_IS_BETTER):
            raise InvalidSpec(
                f"less {one.metric} is better, and it would be maximised",
                field=f"objectives[{i}].direction",
                value=one.direction,
                limit="minimize",
                hint="say direction: minimize (`:min` after the metric on the command line)",
            )


def engine_metrics() -> frozenset[str]:
    """Metrics that measuring an engine reports."""
    from tuner.measure.definitions import metrics_of  # noqa: PLC0415 - numpy
    from tuner.measure.energy import METRICS  # noqa: PLC0415
    from tuner.measure.loadgen.job import Sample  # noqa: PLC0415

    return frozenset(metrics_of([Sample(0, 0.0, 0.0, 0.1, 0.2, 1, 2)], RequestSlo())) | frozenset(METRICS)


def _check_slo(slo: RequestSlo | None) -> None:
    if slo is None:
        return
    for name, value, least in (("ttftMs", slo.ttft_ms, _LEAST_TTFT_MS), ("tpotMs", slo.tpot_ms, _LEAST_TPOT_MS)):
        if value is not None and value < least:
            raise InvalidSpec(
                "is less than any engine needs: are these seconds?",
                field=f"slo.{name}",
                value=value,
                limit=f"{least:g} ms or more",
                hint=f"in milliseconds it would be {value * 1000:g}",
            )


def _check_baseline(spec: TuningSpec) -> None:
    if not spec.baseline:
        return
    if isinstance(spec.target, EngineTarget):
        engine = load().engine(spec.target.engine, field="target.engine")
        shapes = {knob.field for knob in engine.shape}
        whole = {**(spec.space.fixed if spec.space is not None else {}), **spec.baseline}
        knobs = {name: value for name, value in whole.items() if name not in shapes}
        shape = {name: value for name, value in whole.items() if name in shapes}
        for error in check_knobs(engine, knobs, {**spec.target.shape, **shape}, field="baseline"):
            raise error
        return
    space = space_of(spec)
    known = {axis.name for axis in space.axes} | set(space.fixed)
    for name in spec.baseline:
        if name not in known:
            raise unknown("parameter", name, known, field=f"baseline.{name}")
