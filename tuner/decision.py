"""The end of a study: the best configurations measured again beside the one in use, and what that says.

The best of many noisy trials was also the luckiest. So the top of the search is measured anew, each run in a process of
its own, in rounds: one run of the configuration in use, then one of each candidate, all with the same requests, the next
round with others. Rounds are pairs, so a machine that drifts slows all of them alike. Nothing of the search counts
towards the gain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controlplane.model.tuning import Setting, Told, TrialPurpose, TrialState, Verdict
from controlplane.model.tuning_decision import FRONT_MAX, Comparison, Importance, Interval, Judged, TuningDecision
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask, TrialRecord
from tuner.intervals import gain_of, interval_of
from tuner.search.front import pareto_front

# Seeds of confirmation rounds begin here: no search trial has one of them.
_SEEDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration of the search: the first trial that found it, and the means of all that did."""

    trial: TrialRecord
    objectives: tuple[float, ...]
    kept: bool


def candidates(spec: TuningSpec, trials: Sequence[TrialRecord]) -> list[Candidate]:
    """Measured configurations of the search, best first: those that kept the limits, then by the first objective."""
    groups: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        if trial.purpose is TrialPurpose.SEARCH and trial.state is TrialState.DONE and trial.objectives:
            groups[trial.canonical].append(trial)
    found = []
    for group in groups.values():
        means = _means([trial.objectives or [] for trial in group])
        broken = _means([trial.violation or [] for trial in group])
        found.append(Candidate(group[0], tuple(means), all(value <= 0 for value in broken)))
    sign = -1.0 if spec.objectives[0].direction == "maximize" else 1.0
    return sorted(found, key=lambda one: (not one.kept, sign * one.objectives[0], one.trial.number))


def pareto(spec: TuningSpec, trials: Sequence[TrialRecord]) -> list[Candidate]:
    """Configurations that kept the limits and that no other one beats in every objective, best first."""
    kept = [one for one in candidates(spec, trials) if one.kept]
    told = [
        Told(number=one.trial.number, setting=one.trial.setting, verdict=Verdict.OK, values=list(one.objectives))
        for one in kept
    ]
    front = {one.number for one in pareto_front(told, spec.objectives)}
    return [one for one in kept if one.trial.number in front]


def confirm_asks(
    spec: TuningSpec,
    trials: Sequence[TrialRecord],
    baseline: Setting | None,
    canonical: Callable[[Setting], str],
) -> list[Ask]:
    """Confirmation trials that are still to be asked, in their order. Empty: all are. `trials`: every trial so far;
    those of a confirmation before the search went on are another matter. `baseline` None: nothing to compare with."""
    searched = max((t.number for t in trials if t.purpose is TrialPurpose.SEARCH), default=-1)
    have = sum(trial.number > searched for trial in trials)
    plan = _rounds(spec, trials, baseline, canonical)
    first = len(trials) - have
    return [
        Ask(number=first + place, setting=setting, canonical=canonical(setting), why=why, seed=seed, purpose=purpose)
        for place, (setting, why, seed, purpose) in enumerate(plan)
        if place >= have
    ]


def decide(
    spec: TuningSpec,
    trials: Sequence[TrialRecord],
    importance: Sequence[Importance] = (),
    importance_note: str = "",
) -> TuningDecision:
    """What the confirmation says. Before there is one: what is best so far, without an interval."""
    searched = max((t.number for t in trials if t.purpose is TrialPurpose.SEARCH), default=-1)
    runs = [trial for trial in trials if trial.number > searched]
    base_runs = [trial for trial in runs if trial.purpose is TrialPurpose.BASELINE]
    baseline = _judged(spec, None, base_runs, []) if base_runs else None
    found = {one.trial.canonical: one.trial for one in candidates(spec, trials)}
    judged = []
    for key in dict.fromkeys(trial.canonical for trial in runs if trial.purpose is TrialPurpose.CONFIRM):
        own = [trial for trial in runs if trial.purpose is TrialPurpose.CONFIRM and trial.canonical == key]
        judged.append(_judged(spec, found[key].number if key in found else None, own, base_runs))
    judged.sort(key=lambda one: _rank(spec, one))
    best = judged[0] if judged and judged[0].kept else None
    verdict, message = _verdict(spec, best, baseline, bool(judged))
    return TuningDecision(
        verdict=verdict,
        message=message,
        best=best,
        baseline=baseline,
        confirmed=judged,
        front=[one.trial.number for one in pareto(spec, trials)][:FRONT_MAX],
        importance=list(importance),
        importance_note=importance_note,
    )


def _rounds(
    spec: TuningSpec, trials: Sequence[TrialRecord], baseline: Setting | None, canonical: Callable[[Setting], str]
) -> list[tuple[Setting, str, int, TrialPurpose]]:
    in_use = None if baseline is None else canonical(baseline)
    front = pareto(spec, trials) if len(spec.objectives) > 1 else [c for c in candidates(spec, trials) if c.kept]
    top = [one for one in front if one.trial.canonical != in_use][: spec.measuring.confirm_top]
    out: list[tuple[Setting, str, int, TrialPurpose]] = []
    for turn in range(spec.measuring.confirm_runs if top else 0):
        seed = _SEEDS + turn
        of = f"round {turn + 1} of {spec.measuring.confirm_runs}"
        if baseline is not None:
            out.append((baseline, f"the configuration in use, {of}", seed, TrialPurpose.BASELINE))
        for one in top:
            why = f"trial {one.trial.number} again, {of}"
            out.append((one.trial.setting, why, seed, TrialPurpose.CONFIRM))
    return out


def _judged(
    spec: TuningSpec, number: int | None, runs: Sequence[TrialRecord], base_runs: Sequence[TrialRecord]
) -> Judged:
    done = [trial for trial in runs if trial.state is TrialState.DONE and trial.objectives]
    failed = [trial for trial in runs if trial.state is TrialState.INFEASIBLE]
    broken = _means([trial.violation or [] for trial in done])
    over = [limit.metric for limit, value in zip(spec.limits, broken, strict=False) if value > 0]
    note = ""
    if failed:
        note = f"{len(failed)} of {len(runs)} runs failed: {failed[0].reason}"
    elif over:
        note = f"on average over the limit of {', '.join(over)}"
    elif not done:
        note = "no run ended with a result"
    columns = list(zip(*(trial.objectives or [] for trial in done), strict=True))
    return Judged(
        number=number,
        setting=runs[0].setting,
        objectives=[interval_of(column) for column in columns],
        gain_pct=_gain(spec, done, base_runs),
        kept=not note,
        note=note[:1024],
    )


def _gain(spec: TuningSpec, done: Sequence[TrialRecord], base_runs: Sequence[TrialRecord]) -> Interval | None:
    base = {trial.seed: trial.objectives[0] for trial in base_runs if trial.objectives}
    pairs = [(trial.objectives[0], base[trial.seed]) for trial in done if trial.objectives and trial.seed in base]
    return gain_of(pairs, maximize=spec.objectives[0].direction == "maximize")


def _rank(spec: TuningSpec, one: Judged) -> tuple[bool, float, int]:
    """Kept ones first, by the end of the interval that is worst."""
    if not one.objectives:
        return (True, 0.0, one.number or 0)
    first = one.objectives[0]
    if spec.objectives[0].direction == "maximize":
        return (not one.kept, -(first.mean if first.lo is None else first.lo), one.number or 0)
    return (not one.kept, first.mean if first.hi is None else first.hi, one.number or 0)


def _verdict(spec: TuningSpec, best: Judged | None, baseline: Judged | None, confirmed: bool) -> tuple[Comparison, str]:
    metric = spec.objectives[0].metric
    if best is None:
        why = "none of the confirmed configurations kept the limits" if confirmed else "no configuration was confirmed"
        return "none-kept", f"{why}; keep the configuration in use"
    if baseline is None or best.gain_pct is None:
        return "no-baseline", f"best by {metric}; there is no baseline to compare it with"
    gain = best.gain_pct
    if gain.lo is None or gain.hi is None:
        return (
            "no-evidence",
            f"gain in {metric} {gain.mean:+.1f} % in one round: more rounds are needed for an interval",
        )
    span = (
        f"gain in {metric} {gain.mean:+.1f} %, 90 % interval {gain.lo:+.1f} to {gain.hi:+.1f} % over {gain.runs} rounds"
    )
    if gain.lo > 0:
        return "better", f"better than the configuration in use: {span}"
    if gain.hi < 0:
        return "worse", f"worse than the configuration in use: {span}; keep it"
    return "no-evidence", f"no evidence of a difference: {span}; keep the configuration in use"


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]
