"""When a deployment is planned, and planned again. Pure: the clock, the plan in force and the last attempt come in."""

from __future__ import annotations

import hashlib
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
    pools changed (accelerators, nodes, NICs, prices) or the calibration did. `room_pause_s`: when only free room changed.
    `failure_*`: after an attempt that failed, doubling. `spread`: pauses that many deployments begin at once are longer by
    up to this share, each deployment's by its own. `claim_s`: how long others keep clear of room that a plan counts on and
    its pods have not taken.
    """

    margin: float = 0.10
    spec_pause_s: float = 5.0
    unplaceable_pause_s: float = 30.0
    pools_pause_s: float = 60.0
    room_pause_s: float = 600.0
    failure_base_s: float = 30.0
    failure_max_s: float = 1_800.0
    spread: float = 0.25
    claim_s: float = 600.0


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
    """Plan at `at_s` (epoch seconds, may be past) because of `why`. `urgent`: there is nothing that could go on."""

    at_s: float
    why: str
    urgent: bool = False


def revisions(asked: Asked) -> Revisions:
    """What an attempt remembers of its question."""
    return asked.request_revision, asked.pools_revision, asked.room_revision, asked.calibration


def due(
    plan: PlanStatus | None,
    asked: Asked,
    placeable: bool,
    last: Attempt | None,
    settings: AutoSettings,
    uid: str = "",
) -> Due | None:
    """When to ask the planner; None while the plan in force answers the question, or the answer was a definite no.

    `placeable`: the first candidate of the plan still fits into the pools. `uid`: the deployment's, for its own share of
    the spread."""
    longer = 1.0 + settings.spread * share_of(uid)
    now_asked = revisions(asked)
    if last is not None and last.error is not None:
        if last.asked == now_asked and not last.transient:
            return None  # the same question has the same answer
        pause_s = settings.spec_pause_s
        if last.asked[0] == now_asked[0]:
            doubled_s = settings.failure_base_s * 2.0 ** min(last.failures - 1, 16)
            pause_s = longer * min(settings.failure_max_s, doubled_s)
        return Due(last.at_s + pause_s, "the last attempt failed", urgent=last.asked[0] != now_asked[0])
    weighed_s = 0.0 if plan is None else plan.weighed_time.timestamp()
    since_s = weighed_s if last is None else max(weighed_s, last.at_s)
    if plan is None:
        return Due(since_s + settings.spec_pause_s, "there is no plan", urgent=True)
    if plan.request_revision != asked.request_revision:
        return Due(since_s + settings.spec_pause_s, "the spec changed", urgent=True)
    recalibrated = _recalibrated(plan, asked, last)
    if (plan.pools_revision, plan.room_revision) == now_asked[1:3] and not recalibrated:
        return None
    if not placeable:
        return Due(since_s + settings.unplaceable_pause_s, "the running plan has no room", urgent=True)
    if plan.pools_revision != asked.pools_revision:
        return Due(since_s + settings.pools_pause_s * longer, "the pools changed")
    if recalibrated:
        return Due(since_s + settings.pools_pause_s * longer, "the calibration changed")
    return Due(since_s + settings.room_pause_s * longer, "free room changed")


def share_of(uid: str) -> float:
    """A number in [0, 1) that is the deployment's own, the same in every process; 0 without a uid."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:4]) / 2**32 if uid else 0.0


def _recalibrated(plan: PlanStatus, asked: Asked, last: Attempt | None) -> bool:
    """Whether the plan was made with another calibration than would be used now. Asked about once: a planner that does
    not say what it used must not be asked for ever."""
    if asked.calibration is None or (last is not None and last.asked[3] == asked.calibration):
        return False
    return plan.calibration is None or plan.calibration.digest != asked.calibration
