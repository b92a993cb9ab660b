"""Refits the corrections of the engines a user has measured, on top of a calibration that knows them less well.

For each (engine, accelerator, model) three numbers are looked for inside the replay: factors on prefill and decode, and
the time before the engine's queue. The fewer runs there are, the closer they stay to where they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from controlplane.model.errors import InvalidSpec
from tuner.serving.calibration.labels import support_key
from tuner.serving.calibration.measurement import Measurement
from tuner.serving.calibration.parameters import FACTORS, Calibration, Effect, Knob, Provenance, Support
from tuner.serving.calibration.score import Point, Score, score
from tuner.serving.deployment import deployment_of
from tuner.serving.question import Question
from tuner.serving.traffic import requests_of

LEAST_RUNS = 3  # of one engine, accelerator and model: fewer are repeated by three free numbers
# First step of the search, and how far from its start a number of one run may go for a tenth of its error.
_STEPS: dict[Knob, float] = {"prefill": 0.2, "decode": 0.2, "request_ms": 10.0}
_SCALES: dict[Knob, float] = {"prefill": 0.3, "decode": 0.3, "request_ms": 30.0}
_SHRINKAGE = 0.1  # weight of those distances, over the number of runs
_HALVINGS = 5
_MOST_ROUNDS = 60
_WORSE_PCT = 0.5  # points of a median error that count: less is noise of a handful of runs

Answer = Callable[[Question], Mapping[str, Any]]
Group = tuple[str, str, str]  # engine, accelerator, model
ROOFLINE = "roofline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """`before` and `after` by metric, over the same runs. `left_out`: each run predicted by a fit that had not seen its
    load; None where no group is large enough to leave some out."""

    calibration: Calibration
    before: Mapping[str, Score]
    after: Mapping[str, Score]
    left_out: Mapping[str, Score] | None
    groups: Mapping[str, Mapping[str, float]]  # group -> knob -> change
    unproven: Sequence[str] = ()  # groups that keep wide intervals: a load left out lay outside the narrow ones

    @property
    def worse(self) -> list[str]:
        """Where median errors are above those before, in words: over the same runs, and over loads the fit had not
        seen."""
        return [
            f"{metric.upper()} {name} {one:.3g} %, before {before:.3g} %"
            for name, scores in self._fitted()
            for metric, before, one in self._medians(scores)
            if one > before + _WORSE_PCT
        ]

    @property
    def harmful(self) -> bool:
        """Whether it predicts worse than before, TTFT and TPOT together: a fit may trade a little of one for the other."""
        return any(
            sum(one - before for _, before, one in self._medians(scores)) > _WORSE_PCT for _, scores in self._fitted()
        )

    def _fitted(self) -> list[tuple[str, Mapping[str, Score]]]:
        return [("after", self.after), *([] if self.left_out is None else [("on loads left out", self.left_out)])]

    def _medians(self, scores: Mapping[str, Score]) -> list[tuple[str, float, float]]:
        """(metric, before, of these), where both are known."""
        pairs = [(metric, self.before[metric].median_pct, one.median_pct) for metric, one in scores.items()]
        return [(metric, before, one) for metric, before, one in pairs if before is not None and one is not None]


def refit(
    measurements: Sequence[Measurement],
    base: Calibration,
    answers: Callable[[Calibration], Answer],
    *,
    source: str,
    sha256: str,
    progress: Callable[[int], None] | None = None,
) -> Refit:
    """`answers` makes a predictor of a calibration. Raises InvalidSpec where there is too little to fit, and what the
    predictor raises for a run it cannot answer."""
    grouped = _grouped(measurements)
    small = {group: runs for group, runs in grouped.items() if len(runs) < LEAST_RUNS}
    if small or not grouped:
        what = "; ".join(f"{len(runs)} of {'/'.join(group)}" for group, runs in small.items()) or "none"
        raise InvalidSpec("too few runs to fit", field="measurements", value=what, limit=f"{LEAST_RUNS} of each engine")
    counter = _Counter(progress)
    tiers = _tiers(grouped, answers(base))
    found = {group: _fit(group, runs, tiers, base, answers, counter) for group, runs in grouped.items()}
    left_out: list[tuple[Measurement, Mapping[str, Any]]] = []
    trusted: list[Group] = []
    for group, runs in grouped.items():
        unseen: list[tuple[Measurement, Mapping[str, Any]]] = []
        for kept, tested in _halves(runs):
            fitted = {group: _fit(group, kept, tiers, base, answers, counter)}
            partial = _with(base, fitted, {group: kept}, tiers, source, sha256)
            answer = answers(partial)
            unseen += [(run, answer(run.question)) for run in tested]
        if unseen and all(_inside(run, answer) for run, answer in unseen):
            trusted.append(group)
        left_out += unseen
    few = {group: values for group, values in found.items() if group not in trusted}
    changed = _with(base, found, grouped, tiers, source, sha256, unproven=few)
    before, after = (_scores(measurements, answers(item)) for item in (base, changed))
    return Refit(
        calibration=changed,
        before=before,
        after=after,
        left_out=_scored(left_out) if left_out else None,
        unproven=["/".join(group) for group in few],
        groups={
            "/".join(group): {str(knob): value for knob, value in values.items()} for group, values in found.items()
        },
    )


class _Counter:
    """Predictions made so far."""

    def __init__(self, tell: Callable[[int], None] | None) -> None:
        self._tell, self._done = tell, 0

    def __call__(self) -> None:
        self._done += 1
        if self._tell is not None:
            self._tell(self._done)


def _grouped(measurements: Sequence[Measurement]) -> dict[Group, list[Measurement]]:
    groups: dict[Group, list[Measurement]] = {}
    for run in measurements:
        if run.question.degrees is None:
            raise InvalidSpec("runs with separate roles cannot be fitted", field=run.source, hint="leave them out")
        requests = requests_of(run.question)
        case = deployment_of(run.question, int((requests.isl + requests.osl).max())).members[0].case
        groups.setdefault((case.engine, case.accelerator, case.model), []).append(run)
    return dict(sorted(groups.items()))


def _tiers(grouped: Mapping[Group, Sequence[Measurement]], answer: Answer) -> dict[Group, set[str]]:
    """Tiers of the tables that a group's runs are predicted from."""
    return {group: {str(answer(run.question)["tier"]) for run in runs} for group, runs in grouped.items()}


def _fit(
    group: Group,
    runs: Sequence[Measurement],
    tiers: Mapping[Group, set[str]],
    base: Calibration,
    answers: Callable[[Calibration], Answer],
    count: _Counter,
) -> dict[Knob, float]:
    """Pattern search: one number at a time, steps halved when nothing helps. Deterministic."""

    def loss(values: dict[Knob, float]) -> float:
        answer = answers(_with(base, {group: values}, {group: runs}, tiers, "", ""))
        total = 0.0
        for run in runs:
            total += _error(run, answer(run.question))
            count()
        far = sum(abs(values[knob]) / _SCALES[knob] for knob in _STEPS)
        return (total + _SHRINKAGE * far) / len(runs)

    best: dict[Knob, float] = dict.fromkeys(_STEPS, 0.0)
    least, steps, halvings = loss(best), dict(_STEPS), 0
    for _ in range(_MOST_ROUNDS):
        improved = False
        for knob in _STEPS:
            for sign in (1.0, -1.0):
                tried = best | {knob: best[knob] + sign * steps[knob]}
                found = loss(tried)
                if found < least - 1e-9:
                    best, least, improved = tried, found, True
                    break
        if not improved:
            halvings += 1
            if halvings > _HALVINGS:
                break
            steps = {knob: step / 2 for knob, step in steps.items()}
    return best


def _error(run: Measurement, answer: Mapping[str, Any]) -> float:
    """Mean |ln(predicted / measured)| over the statistics of a metric, summed over metrics."""
    total = 0.0
    for name, measured in (("ttft_ms", run.ttft_ms), ("tpot_ms", run.tpot_ms)):
        pairs = [(answer[name][word], value) for word, value in measured.items()]
        total += fmean(abs(math.log(predicted / value)) if predicted else 10.0 for predicted, value in pairs)
    return total


def _with(
    base: Calibration,
    found: Mapping[Group, Mapping[Knob, float]],
    grouped: Mapping[Group, Sequence[Measurement]],
    tiers: Mapping[Group, set[str]],
    source: str,
    sha256: str,
    unproven: Collection[Group] = (),
) -> Calibration:
    """The base with a group's effects on top of what already holds for it. Its support is widened by the groups, so that
    they get the narrow intervals, but not by those that did not prove them on loads left out."""
    effects = list(base.effects)
    for group, values in found.items():
        when = dict(zip(("engine", "accelerator", "model"), group, strict=True))
        effects += [
            Effect(when=labels, knob=knob, value=round(value, 6), rows=len(grouped[group]))
            for knob, value in values.items()
            if value
            for labels in (_of_tiers(when, tiers[group]) if knob in FACTORS else [when])
        ]
    support = base.support
    proven = [group for group in found if group not in unproven]
    return base.model_copy(
        update={
            "name": f"{base.name} + {source}"[:200],
            "effects": effects,
            "support": Support(
                engine_system_models=_more(support.engine_system_models, [support_key(*group) for group in proven]),
                engine_models=_more(support.engine_models, [support_key(engine, model) for engine, _, model in proven]),
                engine_systems=_more(
                    support.engine_systems, [support_key(engine, system) for engine, system, _ in proven]
                ),
            ),
            "provenance": Provenance(
                data=source,
                data_sha256=sha256,
                rows=sum(len(runs) for runs in grouped.values()),
                rows_answered=sum(len(runs) for runs in grouped.values()),
                filters=[],
                method=f"refit of prefill, decode and request_ms of each engine on top of {base.name}",
                shrinkage={"distance_per_run": _SHRINKAGE},
                checked={},
            ),
        }
    )


def _inside(run: Measurement, answer: Mapping[str, Any]) -> bool:
    """Whether both metrics' means lie in their intervals (medians, where no mean was measured: near enough to ask)."""
    for name, measured in (("ttft_ms", run.ttft_ms), ("tpot_ms", run.tpot_ms)):
        value = measured.get("mean", measured.get("p50"))
        if value is not None and not answer[name]["lo"] <= value <= answer[name]["hi"]:
            return False
    return True


def _of_tiers(when: dict[str, str], tiers: set[str]) -> list[dict[str, str]]:
    """Labels of a factor: those that hold for tables other than rooflines, and those of rooflines."""
    measured = [when] if tiers - {ROOFLINE} else []
    return [*measured, when | {"tier": ROOFLINE}] if ROOFLINE in tiers else measured


def _more(known: Sequence[str], new: Sequence[str]) -> list[str]:
    return sorted({*known, *new})


def _halves(runs: Sequence[Measurement]) -> list[tuple[list[Measurement], list[Measurement]]]:
    """Two folds by load, so that a neighbour's repeat does not vouch for a run. None where a half is too small."""
    loads = sorted({repr((run.question.arrivals, run.question.input, run.question.output)) for run in runs})
    fold = {load: number % 2 for number, load in enumerate(loads)}
    halves: list[list[Measurement]] = [[], []]
    for run in runs:
        halves[fold[repr((run.question.arrivals, run.question.input, run.question.output))]].append(run)
    if min(len(half) for half in halves) < LEAST_RUNS:
        return []
    return [(halves[1], halves[0]), (halves[0], halves[1])]


def _scores(runs: Sequence[Measurement], answer: Answer) -> dict[str, Score]:
    return _scored([(run, answer(run.question)) for run in runs])


def _scored(pairs: Sequence[tuple[Measurement, Mapping[str, Any]]]) -> dict[str, Score]:
    """Means where they were measured (intervals speak of means), else medians."""
    found = {}
    for metric in ("ttft_ms", "tpot_ms"):
        points = []
        for run, answer in pairs:
            measured: Mapping[str, float] = getattr(run, metric)
            word = "mean" if "mean" in measured else "p50" if "p50" in measured else next(iter(measured))
            point = Point(measured=measured[word], predicted=answer[metric][word])
            if word == "mean":
                point = replace(point, lo=answer[metric]["lo"], hi=answer[metric]["hi"])
            points.append(point)
        found[metric.removesuffix("_ms")] = score(points)
    return found
