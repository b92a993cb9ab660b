"""A deployment with a canary in one verdict: the stable revision's, and what the canary does. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from controlplane.model.canary import ACTIVE, CanaryStatus
from operators.serving import role_status
from operators.serving.draft import Draft
from operators.serving.judgement import Verdict, judge
from operators.serving.reasons import Reason

# What the stable revision says when nothing is wrong with it; anything else comes before the canary.
_CALM = frozenset({Reason.ALL_READY, Reason.ROLLING_OUT, Reason.SCALING})
# Its own rollout in another rendering waits for the canary, room or not.
_CALM_BESIDE = _CALM | {Reason.NO_ROOM_FOR_SURGE}


def verdict_of(drafts: Sequence[Draft], status: CanaryStatus | None) -> Verdict:
    """`status`: of the canary, where the stable revision is held for it."""
    if status is None:
        return role_status.verdict_of(drafts)
    found = judge(drafts[0])
    reason, said = _told(status)
    calm = _CALM_BESIDE if status.phase in ACTIVE else _CALM
    if found.progressing_reason in calm:
        found = replace(found, progressing=_moves(status), progressing_reason=reason, progressing_message=said)
    if found.ready == "True" and found.ready_reason in calm:
        found = replace(found, ready_reason=reason, ready_message=f"{found.ready_message}; {said}")
    return found


def _moves(status: CanaryStatus) -> Literal["True", "False"]:
    return "True" if status.phase in ACTIVE and status.reason != Reason.NO_ROOM_FOR_CANARY else "False"


def _told(status: CanaryStatus) -> tuple[str, str]:
    if status.phase == "RolledBack":
        again = (
            "the stable revision serves; change the spec to try another, or remove spec.rollout.canary to roll this out"
        )
        return Reason.CANARY_ROLLED_BACK, f"revision {status.revision}: {status.reason}: {status.message}; {again}"
    if status.reason == Reason.NO_ROOM_FOR_CANARY:
        return Reason.NO_ROOM_FOR_CANARY, status.message
    reason = Reason.CANARY_STARTING if status.phase == "Starting" else Reason.CANARY_OBSERVING
    return reason, f"revision {status.revision}: {status.message}"
