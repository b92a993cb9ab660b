"""What a job says about a training command, held against the catalogue and the training predictor before anything runs."""

from __future__ import annotations

import contextlib

from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.tuning_job import CommandTarget, TuningSpec
from tuner.search.space import Known, compile_space


def known_of(spec: TuningSpec) -> Known:
    """Rules and margins that a training command's space has beside its own."""
    if not isinstance(spec.target, CommandTarget) or spec.target.training is None:
        return Known()
    from tuner.search.training_room import known_of as of_training  # noqa: PLC0415 - a predictor: only where asked

    return of_training(spec)


def check_training(spec: TuningSpec, *, own_space: bool) -> None:
    """For a spec whose space is written out. Raises UnknownName or InvalidSpec with the field, and Unsupported, with the
    bytes, for a model that fits in no setting. Where the predictor has no figures, nothing is said."""
    target = spec.target
    if not isinstance(target, CommandTarget) or target.training is None or spec.space is None:
        return
    from tuner.search.training_room import check_room  # noqa: PLC0415
    from tuner.search.training_runs import runs_of  # noqa: PLC0415

    _check_directions(spec)
    with contextlib.suppress(Unsupported):  # the first trials' reason says so
        runs_of(target.training)
    if not own_space:
        _check_some_run(spec)
        _check_words(target, [one.name for one in spec.space.parameters])
    check_room(spec)


def _check_some_run(spec: TuningSpec) -> None:
    """That the space of the run holds a setting: its rules are not the user's."""
    assert isinstance(spec.target, CommandTarget) and spec.target.training is not None and spec.space is not None
    run = spec.target.training
    try:
        compile_space(spec.space)
    except InvalidSpec as error:
        raise InvalidSpec(
            f"divides over no replicas that {run.devices} devices leave beside the degrees of {run.model}",
            field="target.training.globalBatch",
            value=run.global_batch,
            limit="a multiple of the replicas",
            hint=f"{-(-run.global_batch // run.devices) * run.devices} would work",
        ) from error


def _check_words(target: CommandTarget, names: list[str]) -> None:
    missing = [name for name in names if not any(f"{{{name}}}" in word for word in target.command)]
    if missing:
        raise InvalidSpec(
            f"leaves out {', '.join(f'{{{name}}}' for name in missing)}: trials that differ in nothing else would be the same",
            field="target.command",
            limit=", ".join(f"{{{name}}}" for name in names),
            hint="use all of them (dataParallel, accumulation, devices, globalBatch and sequenceTokens may be used as well), "
            "or write a space with what the command takes",
        )


def _check_directions(spec: TuningSpec) -> None:
    from tuner.search.training_metrics import known_metric  # noqa: PLC0415

    for i, one in enumerate(spec.objectives):
        known = known_metric(one.metric)
        if known is not None and known.less and one.direction == "maximize":
            raise InvalidSpec(
                f"less {one.metric} is better, and it would be maximised",
                field=f"objectives[{i}].direction",
                value=one.direction,
                limit="minimize",
                hint="say direction: minimize (`:min` after the metric on the command line)",
            )
