"""When a deployment is planned, and planned again. Pure: the clock, the plan in force and the last attempt come in."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.model.auto import PlanStatus
from controlplane.model.errors import TrimtabError
from operators.serving.plan_request import Asked

Revisions = tuple[str, str, str, str | None]  # of request, pools, room, calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoSettings:
    """How eagerly plans are renewed. Pauses in seconds since the last attempt.

    `margin`: a new plan replaces one that can still be placed only if its score is better by this share. `spec_pause_s`:
    after a change of the spec. `unplaceable_pause_s`: when the running plan has no room any more. `pools_pause_s`: when
    pools changed (accelerators, nodes, NICs, prices) or the calibration did. `room_pause_s`: when only free room changed. `failure_*`: after
    an attempt that failed, doubling.
    """

    margin: float = 0.10
    spec_pause_s: float = 5.0
    unplaceable_pause_s: float = 30.0
    pools_pause_s: float = 60.0
    room_pause_s: float = 600.0
    failure_base_s: float = 30.0
    failure_max_s: float = 1_800.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """The last time the planner was asked. `error` None: it answered. `transient`: the same may work next time."""

    at_s: float
    asked: Revisions
    failures: int = 0
    error: TrimtabError | None = None
    transient: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """Plan at `at_s` (epoch seconds, may be past) because of `why`."""

    at_s: float
    why: str


def revisions(asked: Asked) -> Revisions:
    """What an attempt remembers of its question."""
    return asked.request_revision, asked.pools_revision, asked.room_revision, asked.calibration


def due(
    plan: PlanStatus | None, asked: Asked, placeable: bool, last: Attempt | None, settings: AutoSettings
) -> Due | None:
    """When to ask the planner; None while the plan in force answers the question, or the answer was a definite no.

    `placeable`: the first candidate of the plan still fits into the pools."""
    now_asked = revisions(asked)
    if last is not None and last.error is not None:
        if last.asked == now_asked and not last.transient:
            return None  # the same question has the same answer
        pause_s = settings.spec_pause_s
        if last.asked[0] == now_asked[0]:
            pause_s = min(settings.failure_max_s, settings.failure_base_s * 2.0 ** min(last.failures - 1, 16))
        return Due(last.at_s + pause_s, "the last attempt failed")
    weighed_s = 0.0 if plan is None else plan.weighed_time.timestamp()
    since_s = weighed_s if last is None else max(weighed_s, last.at_s)
    if plan is None:
        return Due(since_s + settings.spec_pause_s, "there is no plan")
    if plan.request_revision != asked.request_revision:
        return Due(since_s + settings.spec_pause_s, "the spec changed")
    recalibrated = _recalibrated(plan, asked, last)
    if (plan.pools_revision, plan.room_revision) == now_asked[1:3] and not recalibrated:
        return None
    if not placeable:
        return Due(since_s + settings.unplaceable_pause_s, "the running plan has no room")
    if plan.pools_revision != asked.pools_revision:
        return Due(since_s + settings.pools_pause_s, "the pools changed")
    if recalibrated:
        return Due(since_s + settings.pools_pause_s, "the calibration changed")
    return Due(since_s + settings.room_pause_s, "free room changed")


def _recalibrated(plan: PlanStatus, asked: Asked, last: Attempt | None) -> bool:
    """Whether the plan was made with another calibration than would be used now. Asked about once: a planner that does
    not say what it used must not be asked for ever."""
    if asked.calibration is None or (last is not None and last.asked[3] == asked.calibration):
        return False
    return plan.calibration is None or plan.calibration.digest != asked.calibration
