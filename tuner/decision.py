"""The end of a study: the best configurations measured again beside the one in use, and what that says.

The best of many noisy trials was also the luckiest. So what the search's model expects most of, and the best by their
means, are measured anew, each run in a process of its own, in rounds: one run of the configuration in use, then one of
each candidate, all with the same requests; the next round with others, in the opposite order. Rounds are pairs, so a
machine that drifts slows all of them alike. From the third round on each may be the last: when the best by its lower
bound is surely better, or all are surely worse. Nothing of the search counts towards the gain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controlplane.model.tuning import Setting, Told, TrialPurpose, TrialState, Verdict
from controlplane.model.tuning_decision import FRONT_MAX, Comparison, Importance, Interval, Judged, TuningDecision
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask, TrialRecord
from tuner.intervals import ROUNDS_LEAST, gain_in_rounds, interval_of
from tuner.measure.verdict import span_of, word_of
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
    """Configurations that the search measured in full, best first: those that kept the limits, then by the first
    objective."""
    groups: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        if trial.purpose is not TrialPurpose.SEARCH or trial.short:
            continue
        if trial.state is TrialState.DONE and trial.objectives:
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
    recommended: Callable[[], Setting | None] = lambda: None,
) -> list[Ask]:
    """Confirmation trials that are to be asked now, in their order. Empty: no more rounds are needed. `trials`: every
    trial so far, all ended where a round is complete; those of a confirmation before the search went on are another
    matter. `baseline` None: nothing to compare with. `recommended`: what the search's model would hand over."""
    runs = _since_search(trials)
    top = _confirmed(spec, trials, runs, baseline, canonical, recommended)
    if not top:
        return []
    one_round = [(setting, TrialPurpose.CONFIRM, f"{why}, ") for setting, why in top]
    if baseline is not None:
        one_round = [(baseline, TrialPurpose.BASELINE, "the configuration in use, "), *one_round]
    ended = len(runs) // len(one_round)
    if len(runs) % len(one_round) == 0 and ended >= ROUNDS_LEAST and _settled(spec, trials):
        return []
    upto = min(max(ended + 1, ROUNDS_LEAST), spec.measuring.confirm_runs)
    first, out = len(trials) - len(runs), []
    for place in range(len(runs), upto * len(one_round)):
        turn, i = divmod(place, len(one_round))
        setting, purpose, why = (one_round if turn % 2 == 0 else one_round[::-1])[i]
        why = f"{why}round {turn + 1} of at most {spec.measuring.confirm_runs}"
        out.append(
            Ask(
                number=first + place, setting=setting, canonical=canonical(setting), why=why, seed=_SEEDS + turn,
                purpose=purpose,
            )
        )  # fmt: skip
    return out


def decide(
    spec: TuningSpec,
    trials: Sequence[TrialRecord],
    importance: Sequence[Importance] = (),
    importance_note: str = "",
) -> TuningDecision:
    """What the confirmation says. Before there is one: what is best so far, without an interval."""
    baseline, judged = _ranked(spec, trials)
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


def _since_search(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    searched = max((trial.number for trial in trials if trial.purpose is TrialPurpose.SEARCH), default=-1)
    return [trial for trial in trials if trial.number > searched]


def _confirmed(
    spec: TuningSpec,
    trials: Sequence[TrialRecord],
    runs: Sequence[TrialRecord],
    baseline: Setting | None,
    canonical: Callable[[Setting], str],
    recommended: Callable[[], Setting | None],
) -> list[tuple[Setting, str]]:
    """Settings to confirm and why. Those that were begun with stay, whatever a model elsewhere would say now."""
    in_use = None if baseline is None else canonical(baseline)
    front = pareto(spec, trials) if len(spec.objectives) > 1 else [c for c in candidates(spec, trials) if c.kept]
    found = {one.trial.canonical: one for one in front if one.trial.canonical != in_use}
    begun = dict.fromkeys(trial.canonical for trial in runs if trial.purpose is TrialPurpose.CONFIRM)
    most = spec.measuring.confirm_top
    order = [key for key in begun if key in found]
    if len(order) < min(most, len(found)):
        wanted = recommended()
        named = [] if wanted is None else [canonical(wanted)]
        order = list(dict.fromkeys([*order, *(key for key in named if key in found), *found]))[:most]
    return [(found[key].trial.setting, f"trial {found[key].trial.number} again") for key in order]


def _ranked(spec: TuningSpec, trials: Sequence[TrialRecord]) -> tuple[Judged | None, list[Judged]]:
    """The configuration in use, and those that were confirmed, best first."""
    runs = _since_search(trials)
    base_runs = [trial for trial in runs if trial.purpose is TrialPurpose.BASELINE]
    found = {one.trial.canonical: one.trial.number for one in candidates(spec, trials)}
    groups: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in runs:
        if trial.purpose is TrialPurpose.CONFIRM:
            groups[trial.canonical].append(trial)
    judged = [_judged(spec, found.get(key), own, base_runs, len(groups)) for key, own in groups.items()]
    judged.sort(key=lambda one: _rank(spec, one))
    return (_judged(spec, None, base_runs, []) if base_runs else None), judged


def _settled(spec: TuningSpec, trials: Sequence[TrialRecord]) -> bool:
    """Whether more rounds would not change what is said."""
    runs = [trial for trial in _since_search(trials) if trial.purpose is TrialPurpose.CONFIRM]
    if {trial.canonical for trial in runs} == {t.canonical for t in runs if t.state is TrialState.INFEASIBLE}:
        return True
    baseline, judged = _ranked(spec, trials)
    kept = [one for one in judged if one.kept]
    if baseline is None or not kept:
        return False
    return word_of(kept[0].gain_pct) == "faster" or all(word_of(one.gain_pct) == "slower" for one in kept)


def _judged(
    spec: TuningSpec, number: int | None, runs: Sequence[TrialRecord], base_runs: Sequence[TrialRecord], rivals: int = 1
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
        gain_pct=_gain(spec, done, base_runs, rivals),
        kept=not note,
        note=note[:1024],
    )


def _gain(
    spec: TuningSpec, done: Sequence[TrialRecord], base_runs: Sequence[TrialRecord], rivals: int
) -> Interval | None:
    base = {trial.seed: trial.objectives[0] for trial in base_runs if trial.objectives}
    pairs = [(trial.objectives[0], base[trial.seed]) for trial in done if trial.objectives and trial.seed in base]
    most = spec.measuring.confirm_runs
    return gain_in_rounds(pairs, maximize=spec.objectives[0].direction == "maximize", most=most, rivals=rivals)


def _rank(spec: TuningSpec, one: Judged) -> tuple[bool, bool, float, int]:
    """Kept ones first, by the lower bound of the gain; without a configuration in use by the end of their own interval
    that is worst. What has no interval comes last."""
    number = one.number or 0
    if one.gain_pct is not None and one.gain_pct.lo is not None:
        return (not one.kept, False, -one.gain_pct.lo, number)
    if not one.objectives:
        return (not one.kept, True, 0.0, number)
    first = one.objectives[0]
    down = spec.objectives[0].direction == "minimize"
    worst = first.hi if down else first.lo
    value = first.mean if worst is None else worst
    return (not one.kept, one.gain_pct is not None or worst is None, value if down else -value, number)


def _verdict(spec: TuningSpec, best: Judged | None, baseline: Judged | None, confirmed: bool) -> tuple[Comparison, str]:
    metric = spec.objectives[0].metric
    if best is None:
        why = "none of the confirmed configurations kept the limits" if confirmed else "no configuration was confirmed"
        return "none-kept", f"{why}; keep the configuration in use"
    if baseline is None:
        return "no-baseline", f"best by {metric}; there is no baseline to compare it with"
    gain = best.gain_pct
    if gain is None:
        if not baseline.objectives:
            return "no-baseline", f"best by {metric}; no run of the configuration in use can be compared with it"
        reached = f"{metric} of the configuration in use is {baseline.objectives[0].mean:g} on average"
        return "no-evidence", f"{reached}: no gain in % can be said of it"
    if gain.lo is None and gain.hi is None:
        rounds = f"{gain.runs} round{'s' if gain.runs > 1 else ''}"
        least = f"{ROUNDS_LEAST} are needed for an interval"
        why = least if gain.runs < ROUNDS_LEAST else "both configurations may well reach nothing"
        return "no-evidence", f"gain in {metric} {gain.mean:+.1f} % in {rounds}: {why}"
    span = f"gain in {metric} {span_of(gain, f'{gain.runs} rounds')}"
    word = word_of(gain)
    if word == "faster":
        return "better", f"better than the configuration in use: {span}"
    if word == "slower":
        return "worse", f"worse than the configuration in use: {span}; keep it"
    return "no-evidence", f"no evidence of a difference: {span}; keep the configuration in use"


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]
