"""The decision about a canary: from its replicas and live counters to a status, a window and what the Service sends where.

Phases: Starting (its pods come up), Observing (both answer and are compared), then Promoted or RolledBack. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from controlplane.model.actions import Record
from controlplane.model.canary import ACTIVE, CanaryPhase, CanaryStatus
from controlplane.model.live import EnginePod
from operators.serving.canary_course import Course
from operators.serving.canary_verdict import Verdict, expected_seconds, summary, verdict
from operators.serving.canary_watch import Seen, Side, Watch, beside, in_turns
from operators.serving.draft import Draft
from operators.serving.reasons import Reason
from operators.serving.replicas import Replica, Trouble, how_it_ended, trouble

_MESSAGE_MAX = 2_000
# An image that cannot be pulled or a container that cannot be made may be somebody's passing trouble.
_TROUBLE_S = 60.0
# Readiness comes and goes; a window needs both, and is looked for again after this long.
_UNREADY_LOOK_S = 5.0
# Time without both does not count as watched; a canary that comes and goes must end nevertheless.
_UNREADY_MOST = 2
_NOT_READY = "NotReady"


@dataclass(frozen=True, slots=True)
class Step:
    """`serve`: the revision that the Service sends to alone; None: every leader. `read`: engines to read now."""

    status: CanaryStatus | None
    watch: Watch | None = None
    events: tuple[Record, ...] = ()
    read: tuple[EnginePod, ...] = ()
    again_s: float | None = None
    serve: str | None = None


def step(found: Course, drafts: Sequence[Draft], now_s: float) -> Step:
    """What becomes of the canary now. `drafts`: of the course's parts, in their order."""
    if not found.held:
        return Step(_past(found, drafts))
    if found.begins or found.stored is None:
        return _begin(found, now_s)
    status = found.stored
    if status.phase not in ACTIVE:
        return Step(status)
    stable, canary = drafts
    failure = _failure(canary, now_s)
    if failure is not None:
        reason = _NOT_READY if failure.reason in _SLOW else "Crashed"
        return _decided(status, "RolledBack", reason, f"{failure.reason}: {failure.message}", now_s)
    ready: dict[Side, Sequence[Replica]] = {
        # Those too that a former version of the operator rendered: the same spec.
        "stable": [
            one for one in stable.kept if one.ready and (one.template is not None or one.revision in found.known)
        ],
        "canary": [one for one in canary.kept if one.ready],
    }
    if status.phase == "Starting":
        if not ready["stable"] or not ready["canary"] or len(ready["canary"]) < found.wanted:
            why = _waits(found, canary, bool(ready["stable"]))
            return Step(_told(status, *why), again_s=now_s + _UNREADY_LOOK_S)
        status = status.model_copy(update={"phase": "Observing", "since": _moment(now_s)})
    return _observe(found, status, ready, canary, now_s)


def _observe(
    found: Course, status: CanaryStatus, ready: Mapping[Side, Sequence[Replica]], draft: Draft, now_s: float
) -> Step:
    assert found.canary is not None
    notes = draft.snapshot.notes.canary
    watch = notes if notes is not None and notes.candidate == found.candidate else Watch(found.candidate)
    most_s = _UNREADY_MOST * found.canary.hold.most_seconds
    if not ready["stable"] or not ready["canary"]:
        # Whoever answers gets all, and the window under way is given up.
        missing = "canary" if ready["stable"] else "stable revision"
        if missing == "canary" and status.since is not None and now_s - status.since.timestamp() > most_s:
            said_so = f"it keeps losing its readiness, {_UNREADY_MOST} times hold.mostSeconds after it first answered"
            return _decided(status, "RolledBack", _NOT_READY, f"{said_so}; {summary(status, found.canary)}", now_s)
        said = _told(status, _NOT_READY, f"no replica of the {missing} answers; {summary(status, found.canary)}")
        return Step(said, Watch(found.candidate), again_s=now_s + _UNREADY_LOOK_S)
    pods: dict[Side, Sequence[EnginePod]] = {side: _pods(replicas) for side, replicas in ready.items()}
    looks = in_turns if turned(found) else beside
    status = status.model_copy(update={"mode": "InTurns" if turned(found) else "SideBySide"})
    live = draft.snapshot.live
    seen = looks(status, watch, live, pods, found.canary.hold.window_seconds, now_s)
    serve = None if seen.serve is None else ready[seen.serve][0].revision
    read = (*pods["canary"], *pods["stable"]) if seen.read else ()
    if not seen.status.windows:
        said = _told(seen.status, str(Reason.CANARY_OBSERVING), "both revisions answer; the first window is under way")
        return Step(said, seen.watch, (), read, seen.again_s, serve)
    if seen.status.windows == status.windows and status.reason != _NOT_READY:
        # Nothing was counted: the figures and what follows from them are as they were.
        return Step(seen.status, seen.watch, (), read, seen.again_s, serve)
    judged = verdict(seen.status, found.canary)
    missed = _missed(draft, seen)
    if judged.word == "Promote" and missed is not None:
        reason, said_so = missed
        late = status.since is not None and now_s - status.since.timestamp() > most_s
        judged = Verdict("RollBack" if late else None, reason, f"{said_so}; {judged.message}")
    if judged.word is not None:
        phase: CanaryPhase = "Promoted" if judged.word == "Promote" else "RolledBack"
        return _decided(seen.status, phase, judged.reason, judged.message, now_s)
    expected_s = expected_seconds(seen.status, found.canary)
    finite_s = None if expected_s is None or math.isinf(expected_s) else round(expected_s)
    said = _told(seen.status.model_copy(update={"expected_seconds": finite_s}), judged.reason, judged.message)
    return Step(said, seen.watch, (), read, seen.again_s, serve)


def _missed(draft: Draft, seen: Seen) -> tuple[str, str] | None:
    """What the figures of its other replicas hide: one that answers nobody, or is not ready, when all are to be so."""
    if seen.hung:
        return "NoAnswers", "a replica of the canary has requests that wait and gave no first token in the last window"
    running = [replica for replica in draft.kept if replica.alive]
    unready = sum(not replica.ready for replica in running)
    return (_NOT_READY, f"{unready} of {len(running)} replicas of the canary do not answer") if unready else None


def turned(found: Course) -> bool:
    """Whether traffic goes to the two in turns: one replica, whose clients come through the Service alone."""
    spec = found.whole.deployment.spec
    return spec.replicas == 1 and spec.routing.router == "service"


def _begin(found: Course, now_s: float) -> Step:
    status = CanaryStatus(
        candidate=found.candidate,
        revision=found.revision,
        phase="Starting",
        mode="InTurns" if turned(found) else "SideBySide",
        reason="Begun",
        message="the stable revision keeps serving while the canary starts",
        begun_time=_moment(now_s),
    )
    said = f"canary of revision {found.revision} begins; {status.message}"
    return Step(status, Watch(found.candidate), (Record("Normal", "CanaryBegun", said),), again_s=now_s)


def _decided(status: CanaryStatus, phase: CanaryPhase, reason: str, message: str, now_s: float) -> Step:
    done = status.model_copy(
        update={
            "phase": phase,
            "reason": reason,
            "message": message[:_MESSAGE_MAX],
            "decided_time": _moment(now_s),
            "expected_seconds": None,
        }
    )
    if phase == "Promoted":
        event = Record("Normal", "CanaryPromoted", f"revision {status.revision}, {reason}: {message}"[:_MESSAGE_MAX])
    else:
        event = Record("Warning", "CanaryRolledBack", f"revision {status.revision}, {reason}: {message}"[:_MESSAGE_MAX])
    return Step(done, None, (event,), again_s=now_s)


def _past(found: Course, drafts: Sequence[Draft]) -> CanaryStatus | None:
    """Of a deployment that tries nothing now: the last verdict stays readable, and one that rejects is remembered while
    nothing about the change is decided (suspended, scaled to zero, a spec with errors)."""
    before, spec = found.whole.deployment.status.canary, found.whole.deployment.spec
    if before is None or spec.rollout.canary is None:
        return None
    resting = spec.suspend or not spec.replicas or bool(found.whole.errors)
    if resting and before.phase in ACTIVE:
        # Its pods go. How long it had both answer begins anew; what was watched still counts.
        begun = before.model_copy(update={"phase": "Starting", "since": None, "expected_seconds": None})
        return _told(
            begun,
            str(Reason.CANARY_STARTING),
            "suspended, without replicas, or its spec has errors: the canary starts again after that",
        )
    if resting or before.phase == "Promoted":
        return before
    return None


_SLOW = frozenset(
    {
        Reason.STARTUP_DEADLINE_EXCEEDED,
        Reason.IMAGE_UNAVAILABLE,
        Reason.CONTAINER_REFUSED,
        Reason.CLAIM_UNAVAILABLE,
    }
)


def _failure(draft: Draft, now_s: float) -> Trouble | None:
    """What the canary did that no stable replica may do: end, or never answer."""
    for repair in draft.repaired:
        if repair.fails:
            return Trouble(repair.reason, repair.message)
    for replica in draft.kept:
        for pod in replica.alive:
            if pod.restarts and pod.exit_code is not None:
                return Trouble(Reason.ENGINE_CRASHING, f"pod {pod.name}: {how_it_ended(pod)}")
        said = trouble(replica)
        if said is None:
            continue
        if said.reason is Reason.ENGINE_CRASHING or now_s - replica.created_s >= _TROUBLE_S:
            return said
    return None


def _waits(found: Course, draft: Draft, stable_answers: bool) -> tuple[str, str]:
    """Why it does not serve yet."""
    if not found.wanted:
        rollout = found.whole.deployment.spec.rollout
        said = f"spec.rollout.maxSurge {rollout.max_surge}: a canary of one replica needs room beside it; set maxSurge to 1"
        return str(Reason.NO_ROOM_FOR_CANARY), said
    if draft.refused is not None:
        return str(Reason.NO_ROOM_FOR_CANARY), f"{draft.refused.message}; the canary starts when there is room"
    if draft.held is not None:
        return str(draft.held.reason), draft.held.message
    if not stable_answers:
        return _NOT_READY, "no stable replica answers: there is nothing to compare the canary with"
    return str(Reason.CANARY_STARTING), "the canary's engines are starting"


def _told(status: CanaryStatus, reason: str, message: str) -> CanaryStatus:
    return status.model_copy(update={"reason": reason, "message": message[:_MESSAGE_MAX]})


def _pods(replicas: Sequence[Replica]) -> tuple[EnginePod, ...]:
    """The leaders: they answer requests."""
    return tuple(
        EnginePod(pod.uid, pod.name, pod.namespace, pod.pod_ip, pod.engine)
        for replica in replicas
        for pod in replica.alive
        if pod.leader and pod.pod_ip and pod.engine
    )


def _moment(now_s: float) -> datetime:
    return datetime.fromtimestamp(int(now_s), UTC)
