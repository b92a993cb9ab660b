"""One verdict from everything a draft knows: are the replicas there, is something still moving, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from operators.serving.draft import Draft
from operators.serving.owned import SERVICES
from operators.serving.reasons import Reason

_ERRORS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """The two conditions. Reasons are words of `Reason`, of placement's reasons, or codes of the error tree."""

    ready: Literal["True", "False"]
    ready_reason: str
    ready_message: str
    progressing: Literal["True", "False"]
    progressing_reason: str
    progressing_message: str


def judge(draft: Draft) -> Verdict:
    """The dominant reason goes from what only a person can mend to what mends itself."""
    spec = draft.snapshot.deployment.spec
    ready = sum(replica.ready for replica in draft.kept)
    if spec.suspend:
        left = len(draft.snapshot.pods)
        message = "spec.suspend is set; the Service stays, nobody answers"
        return _both("False", Reason.SUSPENDED, message, "True" if left else "False")
    if draft.snapshot.errors:
        first = draft.snapshot.errors[0]
        shown = [str(error) for error in draft.snapshot.errors[:_ERRORS_SHOWN]]
        more = len(draft.snapshot.errors) - len(shown)
        message = "; ".join(shown) + (f"; and {more} more" if more else "")
        if draft.kept:
            message += f" ({ready} replicas of the last valid revision go on)"
        return _both("False", first.reason, message, "True" if first.reason == Reason.PLANNING else "False")
    counts = f"{ready} of {spec.replicas} replicas ready"
    progressing, why, detail = _progress(draft, ready)
    enough = max(1, spec.replicas - spec.rollout.max_unavailable)
    if draft.snapshot.taken:
        said = "; ".join(taken.message for taken in draft.snapshot.taken)
        # Without its Service nobody reaches the replicas; without its budget they answer all the same.
        reached = ready >= enough and all(taken.resource != SERVICES for taken in draft.snapshot.taken)
        return _both("True" if reached else "False", Reason.NAME_CONFLICT, f"{counts}; {said}", "False")
    if spec.replicas == 0:
        return Verdict("True", Reason.SCALED_TO_ZERO, "no replicas are wanted", progressing, why, detail)
    if ready >= enough and not draft.snapshot.router_ready:
        name = draft.snapshot.deployment.metadata.name
        said = f"the router does not answer yet: kubectl describe deployment {name}-router says why"
        return Verdict("False", Reason.ROUTER_UNAVAILABLE, f"{counts}; {said}", progressing, why, detail)
    if ready >= enough:
        if why in (Reason.ROLLOUT_STALLED, Reason.NO_ROOM_FOR_SURGE, Reason.ROLLING_OUT, Reason.MOVING_TO_BETTER):
            return Verdict("True", why, f"{counts}; {detail}", progressing, why, detail)
        if ready < spec.replicas:
            return Verdict("True", Reason.DEGRADED, f"{counts}; {detail}", progressing, why, detail)
        return Verdict("True", Reason.ALL_READY, counts, progressing, why, detail)
    cause, said = _cause(draft) or (why, detail)
    return Verdict("False", cause, f"{counts}; {said}", progressing, why, detail)


def _both(ready: Literal["True", "False"], reason: str, message: str, progressing: Literal["True", "False"]) -> Verdict:
    return Verdict(ready, str(reason), message, progressing, str(reason), message)


def _progress(draft: Draft, ready: int) -> tuple[Literal["True", "False"], str, str]:
    """What is going on, or why it does not go on."""
    spec = draft.snapshot.deployment.spec
    old = sum(replica.template is None for replica in draft.kept)
    current = len(draft.kept) - old + len(draft.made)
    if draft.stalled:
        cause = _cause(draft)
        said = f"{cause[0]}: {cause[1]}" if cause is not None else "the current revision does not become ready"
        return "False", Reason.ROLLOUT_STALLED, f"{said}; {old} older replicas keep serving"
    if draft.no_room and draft.refused is not None:
        fix = "set spec.rollout.maxUnavailable to 1, or free accelerators"
        return "False", Reason.NO_ROOM_FOR_SURGE, f"{draft.refused.message}; {fix}"
    cause = _cause(draft)
    if cause is not None:
        return "False", cause[0], cause[1]
    if old:
        return "True", Reason.ROLLING_OUT, f"{current} of {spec.replicas} replicas are of the current revision"
    if draft.moving:
        return "True", Reason.MOVING_TO_BETTER, "a replica on a better accelerator choice takes over when it answers"
    if ready < spec.replicas:
        return "True", Reason.ENGINE_STARTING, _starting(draft)
    if current != spec.replicas:
        return "True", Reason.SCALING, f"{current} replicas exist, {spec.replicas} are wanted"
    return "False", Reason.ALL_READY, "nothing to do"


def _cause(draft: Draft) -> tuple[str, str] | None:
    """What keeps missing replicas from answering, other than time."""
    if draft.trouble is not None:
        return draft.trouble.reason, draft.trouble.message
    if draft.held is not None:
        until = datetime.fromtimestamp(int(draft.held.until_s), UTC).strftime("%H:%M:%SZ")
        tries = f"failure {draft.held.failures}, next attempt at {until}"
        return draft.held.reason, f"{draft.held.message}; {tries}"
    if draft.refused is not None:
        return str(draft.refused.reason), draft.refused.message + _unbound(draft)
    for repair in draft.repaired:
        if repair.reason is Reason.NODE_LOST:
            return repair.reason, repair.message
    return None


def _starting(draft: Draft) -> str:
    """Where the engines are starting."""
    pools = {f"{made.template.accelerator} in pool {made.pool}" for made in draft.made}
    pools |= {f"{r.accelerator} in pool {r.pool}" for r in draft.kept if not r.ready}
    said = f"engines are starting on {', '.join(sorted(pools)[:4])}" if pools else "replicas are being replaced"
    return said + _unbound(draft)


def _unbound(draft: Draft) -> str:
    """What the scheduler last said of a pod that it did not bind; empty when there is none."""
    note = next((note for note in draft.back_off.values() if note.reason is Reason.POD_UNSCHEDULABLE), None)
    return "" if note is None else f"; {note.message}"
