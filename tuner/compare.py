"""Two configurations measured in turn until the interval of their ratios is narrow enough, or runs are used up.

A pair is one run of each in a fresh process with the same requests; every other pair in the opposite order. Machines
drift by more than configurations differ, and what slows both runs of a pair says nothing about either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.ports import StopSignal, TrialRunner
from controlplane.model.tuning import LeasedTrial, Measurement, Setting, TrialPurpose, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import objective_values
from tuner.measure.verdict import RegressionVerdict, enough_pairs, judge_by_machine, judge_pairs

# Requests of comparisons: no job's trial has one of these seeds.
_SEEDS = 1_500_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A configuration to be measured: a job's words for target, load and metrics, and the setting."""

    name: str
    spec: TuningSpec
    setting: Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """`verdicts`: one per objective, of new over old; the first is the word. `broken`: why the new one did not work.
    `pairs`: (new, old) of the first objective; None where runs were not taken in pairs."""

    verdicts: tuple[RegressionVerdict, ...] = ()
    pairs: tuple[tuple[float, float], ...] | None = None
    broken: str = ""

    @property
    def word(self) -> Literal["faster", "slower", "no evidence", "broken"]:
        return "broken" if self.broken else self.verdicts[0].word


def measured_in_turn(
    runner: TrialRunner,
    new: Side,
    old: Side,
    *,
    runs_max: int,
    bound_pct: float,
    stop: StopSignal,
    told: Callable[[int, float, float], None] = lambda pair, new, old: None,
) -> Compared:
    """`bound_pct`: whole width of the interval that is narrow enough. `told` hears of each pair. Raises InvalidSpec where
    the two ask for different things, Refused where nothing can be measured."""
    _check_alike(new.spec, old.spec)
    rows: list[tuple[list[float], list[float]]] = []
    maximize = new.spec.objectives[0].direction == "maximize"
    while True:
        order = (new, old) if len(rows) % 2 == 0 else (old, new)
        values: dict[str, list[float]] = {}
        for side in order:
            found = _values(runner, side, len(rows), stop)
            if isinstance(found, str):
                if side is new:
                    return Compared(broken=f"{new.name} does not work: {found}")
                raise Refused(f"{old.name} does not work: {found}", field="OLD", value=old.name, code="NotMeasured")
            values[side.name] = found
        rows.append((values[new.name], values[old.name]))
        told(len(rows), values[new.name][0], values[old.name][0])
        first = [(one[0], other[0]) for one, other in rows]
        if enough_pairs(first, maximize=maximize, width_pct=bound_pct, most=runs_max):
            break
    verdicts = [
        judge_pairs(
            one.metric, [(mine[i], theirs[i]) for mine, theirs in rows], maximize=one.direction == "maximize"
        )
        for i, one in enumerate(new.spec.objectives)
    ]  # fmt: skip
    return Compared(verdicts=tuple(verdicts), pairs=tuple(first))


def recorded_apart(
    spec: TuningSpec, new: Sequence[Measurement], old: Sequence[Measurement], *, names: tuple[str, str]
) -> Compared:
    """Of runs taken earlier, not side by side: those that the other side has the like of, each machine compared with
    itself. How many are left out is said. Raises InvalidSpec where none are alike."""
    for what, field, hint in (
        ("metric definitions", "definitions", "measure both with one version"),
        ("hardware", "host", "measure both on one machine"),
        ("requests", "load", "the same load and seeds are needed"),
    ):
        mine, theirs = ({str(getattr(run, field)) for run in runs} for runs in (new, old))
        if not mine & theirs:
            raise InvalidSpec(
                f"{what} differ: nothing can be said", field=f"{names[0]}, {names[1]}",
                value=f"{min(mine)} and {min(theirs)}"[:200], hint=hint,
            )  # fmt: skip
    alike = {_like(run) for run in new} & {_like(run) for run in old}
    if not alike:
        raise InvalidSpec(
            "no run has its like on the other side: nothing can be said", field=f"{names[0]}, {names[1]}",
            limit="the same machine, requests and metric definitions on both sides", hint="measure both on one machine",
        )  # fmt: skip
    sides = [[run for run in runs if _like(run) in alike] for runs in (new, old)]
    left_out = len(new) + len(old) - len(sides[0]) - len(sides[1])
    verdicts = []
    for i, objective in enumerate(spec.objectives):
        parts = {
            name: (
                [_recorded(run, spec)[i] for run in sides[0] if _machine(run) == name],
                [_recorded(run, spec)[i] for run in sides[1] if _machine(run) == name],
            )
            for name in sorted({_machine(run) for run in sides[0]})
        }
        verdict = judge_by_machine(objective.metric, parts, maximize=objective.direction == "maximize")
        if left_out:
            without = f"{left_out} of {len(new) + len(old)} runs left out: the other side has none on their machine with their requests"  # fmt: skip
            verdict = replace(verdict, message=f"{verdict.message}; {without}")
        verdicts.append(verdict)
    return Compared(verdicts=tuple(verdicts))


def _like(run: Measurement) -> tuple[str, str, str]:
    """What two runs must have in common to be compared."""
    return (run.definitions, run.host, run.load)


def _machine(run: Measurement) -> str:
    """With its definitions, where it was measured by several."""
    return f"{run.host} ({run.definitions})"


def _recorded(run: Measurement, spec: TuningSpec) -> list[float]:
    values = objective_values(run, spec.objectives)
    if isinstance(values, str):
        known = sorted(name for name, value in run.metrics.items() if value is not None)
        raise InvalidSpec("was not measured", field="metric", value=values, limit=", ".join(known)[:300])
    return values


def _check_alike(new: TuningSpec, old: TuningSpec) -> None:
    for field in ("objectives", "load", "slo"):
        if getattr(new, field) != getattr(old, field):
            raise InvalidSpec(
                "the two ask for different things", field=field, value=str(getattr(new, field))[:120],
                limit=str(getattr(old, field))[:120], hint="compare settings under one load: name FILE or --engine and settings",
            )  # fmt: skip


def _values(runner: TrialRunner, side: Side, pair: int, stop: StopSignal) -> list[float] | str:
    """Objective values, or why the configuration does not work. Raises Refused after so many attempts without either."""
    reason = ""
    for attempt in range(1, side.spec.measuring.attempts + 1):
        if stop.is_set():
            break
        trial = LeasedTrial(
            id=f"compare/{pair}", job="compare", tenant="local", number=pair, attempt=attempt, setting=side.setting,
            seed=_SEEDS + pair, purpose=TrialPurpose.CONFIRM,
        )  # fmt: skip
        outcome = runner.run(trial, side.spec, stop=stop)
        if outcome.verdict is Verdict.INFEASIBLE:
            return outcome.reason
        if outcome.verdict is Verdict.OK and outcome.measurement is not None:
            return _recorded(outcome.measurement, side.spec)
        reason = outcome.reason
    raise Refused(
        f"{side.name} could not be measured: {'stopped' if stop.is_set() else reason}", field="runs", value=pair + 1,
        hint="nothing was said about either configuration", code="NotMeasured",
    )  # fmt: skip
