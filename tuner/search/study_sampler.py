"""What a job searches, checked against what it may change, and a start from what earlier studies found."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.tuning import SearchSpace, Setting
from controlplane.model.tuning_job import CommandTarget, EngineTarget, StartPoint, TuningSpec
from tuner.search.space import Space
from tuner.search.spaces.engine import EngineFacts, engine_space
from tuner.search.spaces.training import space_of_run

# Settings of earlier studies that are measured before the sampler chooses.
EARLIER_MOST = 5


def space_of(spec: TuningSpec, facts: EngineFacts | None = None) -> SearchSpace:
    """What the job searches. `facts`: hardware and model as far as they are known, for a job without a space.

    Raises UnknownName, InvalidSpec, or Unsupported where nothing fits."""
    if spec.space is not None:
        _check_output(spec.space, spec.may_change_output)
        return spec.space
    if facts is None and isinstance(spec.target, EngineTarget):
        shape = dict(spec.target.shape)
        facts = EngineFacts(engine=spec.target.engine, fixed=shape, may_change_output=spec.may_change_output)
    if isinstance(spec.target, CommandTarget) and spec.target.training is not None:
        return space_of_run(spec.target.training)
    if facts is None:
        raise InvalidSpec(
            "a space is needed: no catalogue knows the parameters of a command",
            field="space",
            hint="list the parameters that the command takes as {name}, or say with target.training what it trains",
        )
    return engine_space(facts)


def carried_over(space: Space, earlier: Sequence[StartPoint], most: int = EARLIER_MOST) -> list[StartPoint]:
    """Of settings to start with, the first ones that this space has, once each."""
    out: list[StartPoint] = []
    for point in earlier:
        taken = _translated(space, point.setting)
        if taken is not None and len(out) < most and all(taken != other.setting for other in out):
            out.append(StartPoint(setting=taken, origin=point.origin))
    return out


def _translated(space: Space, setting: Setting) -> Setting | None:
    """An earlier setting in this space: names it does not have are dropped, what it fixes is as it fixes it."""
    names = {axis.name for axis in space.axes}
    try:
        return space.checked({name: value for name, value in setting.items() if name in names})
    except TrimtabError:
        return None


def _check_output(space: SearchSpace, may_change: Sequence[str]) -> None:
    for i, parameter in enumerate(space.parameters):
        if parameter.changes_output and parameter.name not in may_change:
            raise InvalidSpec(
                f"{parameter.name} can change the answers",
                field=f"space.parameters[{i}]",
                value=parameter.name,
                hint=f"allow it with mayChangeOutput: [{parameter.name}], or leave it out",
            )
