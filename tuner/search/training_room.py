"""What is known beforehand of a training command's settings: whether one is a training run at all, and how much memory it
leaves. Both are asked of the training predictor itself, since no short expression says them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from controlplane.model.errors import InvalidSpec, TrimtabError, Unsupported
from controlplane.model.tuning import Margin, SearchSpace, Setting, Value
from controlplane.model.tuning_job import CommandTarget, TuningSpec
from controlplane.model.tuning_training import TrainingRun
from tuner.search.expression import Column
from tuner.search.space import Known, Rows, Space, compile_space
from tuner.search.spaces.training_words import field_of
from tuner.search.training_runs import TrainingRuns, fullest_bytes, runs_of
from tuner.training.room import between

Floats = npt.NDArray[np.float64]

_GIB = 2**30
_FLAGS = ("recompute", "sp")  # numbers in columns
# Combinations kept: beyond it they are computed again.
_KEPT_MOST = 200_000
# Settings looked at before a job is refused, where a space has more than that.
_LOOKED_AT = 4096


@dataclass(slots=True, eq=False)
class _Seen:
    """GiB left on the fullest device, by the values of `names`; not a number where it is no training run."""

    runs: TrainingRuns
    names: tuple[str, ...]
    fixed: Mapping[str, Value]
    _left: dict[tuple[Value, ...], float] = field(default_factory=dict)

    def over(self, columns: Mapping[str, Column]) -> Floats:
        length = len(next(iter(columns.values())))
        listed = [columns[name].tolist() for name in self.names]
        keys: list[tuple[Value, ...]] = list(zip(*listed, strict=True)) if listed else [()] * length
        new = [key for key in dict.fromkeys(keys) if key not in self._left]
        if len(self._left) + len(new) > _KEPT_MOST:
            self._left.clear()
            new = list(dict.fromkeys(keys))
        self._look(new)
        return np.array([self._left[key] for key in keys], np.float64)

    def _look(self, keys: list[tuple[Value, ...]]) -> None:
        found = []
        for key in keys:
            values = {name: _plain(name, value) for name, value in zip(self.names, key, strict=True)}
            try:
                found.append((key, self.runs.case({**self.fixed, **values})))
            except TrimtabError:
                self._left[key] = np.nan
        if found:
            left = (self.runs.capacity_bytes - fullest_bytes([case for _, case in found])) / _GIB
            self._left.update(zip((key for key, _ in found), left.tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class _IsRun:
    """A rule."""

    seen: _Seen
    names: frozenset[str]
    text: str = "a whole training run"

    def over(self, columns: Mapping[str, Column]) -> Column:
        return ~np.isnan(self.seen.over(columns))


@dataclass(frozen=True, slots=True, eq=False)
class _MemoryLeft:
    """A margin."""

    seen: _Seen
    names: frozenset[str]
    text: str = "GiB left on the fullest device"

    def over(self, columns: Mapping[str, Column]) -> Column:
        return self.seen.over(columns)


def known_of(spec: TuningSpec) -> Known:
    """Of a training command; nothing for other targets, or where the predictor has no figures for the hardware."""
    if not isinstance(spec.target, CommandTarget) or spec.target.training is None or spec.space is None:
        return Known()
    return _known(spec.target.training.model_dump_json(), spec.space.model_dump_json())


@lru_cache(maxsize=32)
def _known(run_json: str, space_json: str) -> Known:
    run, space = TrainingRun.model_validate_json(run_json), SearchSpace.model_validate_json(space_json)
    try:
        runs = runs_of(run)
    except TrimtabError:  # said when the job was made, or the cheap level says it
        return Known()
    names = tuple(one.name for one in space.parameters if field_of(one.name) is not None)
    seen, spoken = _Seen(runs, names, dict(space.fixed)), frozenset(names)
    message = (
        f"degrees must divide the {run.devices} devices and the model, replicas times micro-batch the global batch of "
        f"{run.global_batch}"
    )
    return Known(
        rules=((_IsRun(seen, spoken), message),),
        margins=((_MemoryLeft(seen, spoken), _margin(runs)),),
    )


def _margin(runs: TrainingRuns) -> Margin:
    """Slack: as far as the memory model is off in 9 of 10 measured runs."""
    capacity_gib = runs.capacity_bytes / _GIB
    least, _ = between(np.array([1.0]))
    return Margin(
        expression="0",  # the formula beside it is asked
        slack=round(capacity_gib * (1.0 / float(least[0]) - 1.0), 3),
        message=f"needs more than the {capacity_gib:.1f} GiB of a device: smaller micro-batches, recomputation, a higher "
        "ZeRO stage or degree",
    )


def check_room(spec: TuningSpec) -> None:
    """Raises InvalidSpec where no setting of a training command's space is a training run, Unsupported, with the bytes,
    where none has room."""
    known = known_of(spec)
    if spec.space is None or not known.margins:
        return
    formula, margin = known.margins[0]
    assert isinstance(formula, _MemoryLeft)
    runs = formula.seen.runs
    plain = compile_space(spec.space)
    rows = _settings(plain, formula.names)
    allowed = plain.allowed(rows)
    says = np.all([rows.active[name] for name in sorted(formula.names)], axis=0) if formula.names else True
    if (allowed & ~np.asarray(says)).any():
        return  # settings without some of the parameters: nobody knows what the command does then
    left = np.where(allowed, formula.over(plain.columns(rows)), np.nan)
    if (left >= -margin.slack).any():
        return
    if np.isnan(left).all():
        raise InvalidSpec(f"no setting of the space is a training run: {_why_none(runs, plain, rows)}", field="space")
    best = int(np.nanargmax(left))
    setting = _text(plain.setting(rows, best))
    raise Unsupported(
        f"{runs.model} does not fit: {f'even {setting}' if setting else 'it'} takes "
        f"{runs.capacity_bytes - left[best] * _GIB:,.0f} bytes on the fullest of {runs.run.devices} devices of "
        f"{runs.capacity_bytes:,.0f} bytes",
        field="target.training.model",
        value=runs.model,
        hint="more devices, devices with more memory, more degrees, ZeRO or recomputation in the space, or a smaller model; "
        "what the command sets itself belongs into space.fixed (tensorParallel: 8, zeroStage: 1)",
    )


def _settings(space: Space, names: Collection[str]) -> Rows:
    """Every combination of these parameters, the others in the middle, as far as they are few; and drawn ones."""
    drawn = space.draw(np.random.default_rng(0), _LOOKED_AT)
    sizes = [axis.size if axis.name in names else 1.0 for axis in space.axes]
    if math.prod(sizes) > _LOOKED_AT:
        return drawn
    grid = np.meshgrid(*((np.arange(size) + 0.5) / size for size in sizes), indexing="ij")
    return space.rows_of_points(np.vstack((np.stack([axis.ravel() for axis in grid], axis=1), drawn.unit)))


def _why_none(runs: TrainingRuns, space: Space, rows: Rows) -> str:
    """Of the first setting that the space's own rules allow."""
    for i in np.flatnonzero(space.allowed(rows)):
        try:
            runs.case(space.setting(rows, int(i)))
        except TrimtabError as error:
            return f"{_text(space.setting(rows, int(i)))}: {error}"
    return "its rules leave none"


def _text(setting: Setting) -> str:
    return " ".join(f"{name}={value}" for name, value in setting.items() if field_of(name) is not None)


def _plain(name: str, value: Value) -> Value:
    """A column's value as the user would write it: columns hold truth values and whole numbers as real ones."""
    if isinstance(value, str):
        return value
    return bool(value) if field_of(name) in _FLAGS else int(value) if value == int(value) else value
