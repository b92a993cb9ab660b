"""The best setting and the gain, in a status's few words."""

from __future__ import annotations

import json

from pydantic import ValidationError

from controlplane.model.tuning import Setting
from controlplane.model.tuning_decision import Interval, TuningDecision
from controlplane.model.tuning_records import SeenJob, TuningJobRecord
from controlplane.model.tuning_resource import BestTrial, Gain

# A status stays small whatever the parameters hold.
_SETTING_MAX_BYTES = 8192


def best(seen: SeenJob) -> BestTrial | None:
    """What the decision hands over; before it, the leading trial."""
    record = seen.record
    metric = record.spec.objectives[0].metric
    decision = decided(record)
    if decision is not None:
        found = decision.best
        if found is None:
            return None
        value = found.objectives[0] if found.objectives else None
        return BestTrial(
            trial=found.number,
            setting=bounded(found.setting),
            metric=metric,
            value=None if value is None else value.mean,
            lo=None if value is None else value.lo,
            hi=None if value is None else value.hi,
            confirmed=True,
            text="" if value is None else f"{value.mean:.4g} {metric}",
        )
    leader = seen.leader
    if leader is None or not leader.objectives:
        return None
    value_of = leader.objectives[0]
    return BestTrial(
        trial=leader.number,
        setting=bounded(leader.setting),
        metric=metric,
        value=value_of,
        text=f"{value_of:.4g} {metric}",
    )


def gain(record: TuningJobRecord) -> Gain | None:
    """None before there is a decision."""
    decision = decided(record)
    if decision is None:
        return None
    over = decision.best.gain_pct if decision.best is not None else None
    if over is None:
        return Gain(verdict=decision.verdict, text=decision.verdict)
    return Gain(
        verdict=decision.verdict,
        percent=over.mean,
        lo=over.lo,
        hi=over.hi,
        confidence=decision.confidence,
        text=_short(over),
    )


def decided(record: TuningJobRecord) -> TuningDecision | None:
    """None: there is none yet, or a newer version wrote one that this one cannot read."""
    if record.decision is None:
        return None
    try:
        return TuningDecision.model_validate(record.decision)
    except ValidationError:
        return None


def bounded(setting: Setting) -> Setting:
    """The setting without its widest values where it is too large to show. What is shown is shown whole."""
    sizes = sorted((len(json.dumps({name: value})), name) for name, value in setting.items())
    kept, total = set(), 0
    for size, name in sizes:
        total += size
        if total > _SETTING_MAX_BYTES:
            break
        kept.add(name)
    return {name: value for name, value in setting.items() if name in kept}


def _short(over: Interval) -> str:
    if over.lo is None or over.hi is None:
        return f"{over.mean:+.1f} %"
    return f"{over.mean:+.1f} % ({over.lo:+.1f} to {over.hi:+.1f})"
