"""What a canary of the deployment makes of a tuning job's setting, said before it happens. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controlplane.model.canary import Canary, CanaryMetric
from controlplane.model.tuning import Limit, TrialPurpose, TrialState
from controlplane.model.tuning_decision import TuningDecision
from controlplane.model.tuning_records import MeasuredAttempt, TrialRecord, TuningJobRecord

# What a canary compares -> how a job names the same mean.
_MEASURED: Mapping[CanaryMetric, str] = {"ttft": "ttft_mean_ms", "tpot": "tpot_mean_ms"}
_LATENCIES = tuple(_MEASURED.values())
_TRIALS_MOST = 32  # runs that are looked at on each side

# Means in ms by the job's name for them: in use, and the best. Absent: not known.
Latencies = Mapping[str, tuple[float, float]]


def undo_warnings(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """`spec`: of the deployment as it will be."""
    held = (spec.get("rollout") or {}).get("canary")
    if held is None:
        return ()
    canary = Canary.model_validate(held)
    if canary.verdict.on_no_evidence == "Promote":
        silent = "without evidence it is promoted"
    else:
        silent = (
            f"without requests it ends after {canary.hold.most_seconds} s with NoEvidence and the tuned setting goes on "
            "serving"
        )
    way_out = [] if canary.verdict.on_no_evidence == "Promote" else ["set its verdict.onNoEvidence: Promote"]
    ways = " or ".join(["take spec.rollout.canary out for it to be rolled out at once", *way_out])
    return (
        f"the deployment has spec.rollout.canary: taking back a promoted setting is a canary, too; {silent}; {ways}",
    )


def confirming(trials: Iterable[TrialRecord], decision: TuningDecision) -> tuple[list[int], list[int]]:
    """Numbers of the runs that confirmed the configuration in use, and the best. What was confirmed before the search
    went on does not count."""
    every = sorted(trials, key=lambda one: one.number)
    searched = max((one.number for one in every if one.purpose is TrialPurpose.SEARCH), default=-1)
    done = [one for one in every if one.number > searched and one.state is TrialState.DONE]
    base = [one.number for one in done if one.purpose is TrialPurpose.BASELINE]
    best = decision.best.setting if decision.best is not None else None
    own = [one.number for one in done if one.purpose is TrialPurpose.CONFIRM and one.setting == best]
    return base[:_TRIALS_MOST], own[:_TRIALS_MOST]


def latencies(
    trials: Iterable[TrialRecord], measured: Sequence[MeasuredAttempt], decision: TuningDecision
) -> dict[str, tuple[float, float]]:
    """Of the runs that confirmed the best beside the configuration in use."""
    base, own = confirming(trials, decision)
    newest = {one.number: one.measurement.metrics for one in sorted(measured, key=lambda one: one.attempt)}
    out: dict[str, tuple[float, float]] = {}
    for name in _LATENCIES:
        told = {number: value for number, metrics in newest.items() if (value := metrics.get(name)) is not None}
        sides = [[told[number] for number in numbers if number in told] for numbers in (base, own)]
        if all(sides):
            out[name] = (sum(sides[0]) / len(sides[0]), sum(sides[1]) / len(sides[1]))
    return out


def apply_warnings(record: TuningJobRecord, found: Latencies, canary: Canary | None) -> list[str]:
    """Of what the canary judges and the job neither sought nor limited, where it was measured to be worse than the
    canary lets pass."""
    if canary is None:
        return []
    asked = {one.metric for one in record.spec.objectives} | {one.metric for one in _above(record.spec.limits)}
    out = []
    for metric in canary.verdict.metrics:
        if any(name.startswith(f"{metric}_") for name in asked) or _MEASURED[metric] not in found:
            continue
        before, after = found[_MEASURED[metric]]
        bound = canary.verdict.not_worse_than_pct
        if before > 0 and (change := 100 * (after / before - 1)) > bound:
            others = [one for one in canary.verdict.metrics if one != metric]
            leave = f", or canary.verdict.metrics without it ({', '.join(others)})" if others else ""
            out.append(
                f"the canary judges {metric.upper()}, which the job neither sought nor limited: {before:.4g} ms in use, "
                f"{after:.4g} ms with this setting ({change:+.0f} %, canary.verdict.notWorseThanPct is {bound:g}), so it "
                f"may well be rolled back; a limit on {_MEASURED[metric]} in the job, a higher notWorseThanPct{leave} "
                "in spec.rollout.canary"
            )
    return out


def _above(limits: Sequence[Limit]) -> list[Limit]:
    return [one for one in limits if one.at_most is not None]
