"""Replicas that cannot come back by themselves: which go, whether the revision backs off, which nodes are avoided. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from operators.serving.reasons import Reason
from operators.serving.replicas import Fate, Replica, how_it_ended
from operators.serving.snapshot import BackOff, NodeState, PlanSettings, Snapshot
from operators.workloads.podview import PodView

# A revision that went without a failure for this many of the longest pauses starts again at the shortest.
_FORGIVEN_AFTER_PAUSES = 2


@dataclass(frozen=True, slots=True)
class Repair:
    """`pods` go. `ranks` can be created again in place (their names are free); then the replica stays.

    `fails`: counts against the revision. `avoid`: nodes that the next placement leaves alone for a while. `stranded`:
    the scheduler bound it nowhere, which fails from the second time in a row (`with_stranded`).
    """

    replica: Replica
    reason: Reason
    message: str
    pods: tuple[PodView, ...]
    ranks: tuple[int, ...] = ()
    in_place: bool = False
    fails: bool = False
    avoid: tuple[str, ...] = ()
    stranded: bool = False


def repairs(replicas: Iterable[Replica], snapshot: Snapshot) -> list[Repair]:
    """What each broken replica needs; sound ones are left out."""
    found = []
    for replica in replicas:
        if not replica.leaving and not replica.whole:
            found.append(_in_place(replica, snapshot) or _whole(replica, snapshot))
    return found


def backed_off(
    known: Mapping[str, BackOff], repair: Repair, settings: PlanSettings, now_s: float
) -> dict[str, BackOff]:
    """The back-off notes with one more failure: pauses double from `back_off_base_s` to `back_off_max_s`."""
    return with_failure(known, repair.replica.revision, repair.reason, repair.message, settings, now_s)


def with_stranded(
    known: Mapping[str, BackOff], repair: Repair, settings: PlanSettings, now_s: float
) -> dict[str, BackOff]:
    """The notes after a pod of a revision could not be bound: the first time without a pause, for another node may take
    it; then as `backed_off`, since what placement does not count (memory, volumes, policies) does not come by itself."""
    revision = repair.replica.revision
    before = known.get(revision)
    if before is not None and now_s <= before.until_s + _FORGIVEN_AFTER_PAUSES * settings.back_off_max_s:
        return backed_off(known, repair, settings, now_s)
    return {**known, revision: BackOff(0, now_s, now_s, repair.reason, repair.message)}


def bound_since(replicas: Iterable[Replica], revision: str, moment_s: float) -> bool:
    """Whether the scheduler has bound a pod of the revision that was created after that moment."""
    pods = (pod for replica in replicas if replica.revision == revision for pod in replica.alive)
    return any(pod.node_name is not None and pod.created_s >= moment_s for pod in pods)


def with_failure(
    known: Mapping[str, BackOff], revision: str, reason: Reason, message: str, settings: PlanSettings, now_s: float
) -> dict[str, BackOff]:
    """As `backed_off`, for a failure that is no repair. Failures at the same moment count once."""
    before = known.get(revision)
    failures = 0
    if before is not None:
        forgiven_s = before.until_s + _FORGIVEN_AFTER_PAUSES * settings.back_off_max_s
        if before.last_s == now_s:
            return dict(known)
        failures = 0 if now_s > forgiven_s else before.failures
    pause_s = min(settings.back_off_base_s * 2.0 ** min(failures, 30), settings.back_off_max_s)
    return {**known, revision: BackOff(failures + 1, now_s, now_s + pause_s, reason, message)}


def _whole(replica: Replica, snapshot: Snapshot) -> Repair:
    """The replica goes; a new one takes another slot."""
    for wanted in (Fate.LOST, Fate.ENDED, Fate.OVERDUE, Fate.TURNED_AWAY, Fate.STRANDED):
        hit = [pod for pod, fate in zip(replica.alive, replica.fates, strict=True) if fate is wanted]
        if hit:
            reason, message = _explain(wanted, hit[0], snapshot)
            return Repair(
                replica,
                reason,
                message,
                replica.alive,
                # An outdated revision gets no new attempt, so its failures count for nothing.
                fails=wanted in (Fate.ENDED, Fate.OVERDUE) and replica.template is not None,
                avoid=_nodes(hit) if wanted in (Fate.TURNED_AWAY, Fate.STRANDED) else (),
                stranded=wanted is Fate.STRANDED and replica.template is not None,
            )
    gone = len(replica.missing) + len(replica.going)
    return Repair(
        replica,
        Reason.ENGINE_STARTING,
        f"{gone} of {gone + len(replica.alive)} pods of replica {replica.slot} are gone, and the engine needs all",
        replica.alive,
    )


def _in_place(replica: Replica, snapshot: Snapshot) -> Repair | None:
    """Only the failed pods of a gang go, where the engine takes new ones in. None when the whole gang must go."""
    template = replica.template
    if template is None or template.pods == 1 or not template.repair_in_place:
        return None
    bad = [pod for pod, fate in zip(replica.alive, replica.fates, strict=True) if fate is not Fate.FINE]
    if len(bad) == len(replica.alive):
        return None
    # A pod that nobody ends keeps its name, so its rank cannot be created again.
    for pod in (*bad, *replica.going):
        if pod.node_name is not None and snapshot.node_state(pod.node_name) is NodeState.SILENT:
            return None
    first = next((fate for fate in replica.fates if fate is not Fate.FINE), None)
    if first is None:
        reason, message = Reason.ENGINE_STARTING, f"rank {replica.missing} of replica {replica.slot} is created again"
    else:
        reason, message = _explain(first, bad[0], snapshot)
    failed = any(fate in (Fate.ENDED, Fate.OVERDUE) for fate in replica.fates)
    turned = [
        pod for pod, fate in zip(replica.alive, replica.fates, strict=True) if fate in (Fate.TURNED_AWAY, Fate.STRANDED)
    ]
    return Repair(
        replica,
        reason,
        message,
        tuple(bad),
        ranks=replica.missing,
        in_place=True,
        fails=failed,
        avoid=_nodes(turned),
        stranded=not failed and Fate.STRANDED in replica.fates,
    )


def _explain(fate: Fate, pod: PodView, snapshot: Snapshot) -> tuple[Reason, str]:
    if fate is Fate.LOST:
        return Reason.NODE_LOST, f"node {pod.node_name} of pod {pod.name} does not report"
    if fate is Fate.OVERDUE:
        limit_s = snapshot.deployment.spec.startup_deadline_seconds
        return (
            Reason.STARTUP_DEADLINE_EXCEEDED,
            f"pod {pod.name} was not ready within spec.startupDeadlineSeconds {limit_s}; raise it if the engine needs "
            "longer, or see the pod's log",
        )
    if fate is Fate.ENDED:
        return Reason.ENGINE_CRASHING, f"pod {pod.name}: {how_it_ended(pod)}"
    if fate is Fate.TURNED_AWAY:
        return Reason.ENGINE_STARTING, f"node {pod.node_name} turned pod {pod.name} away: {pod.status_reason}"
    return (
        Reason.POD_UNSCHEDULABLE,
        f"pod {pod.name} was not bound to {pod.target_node}, which had room by Trimtab's count; kube-scheduler says: "
        f"{pod.unschedulable_message or 'Unschedulable'}",
    )


def _nodes(pods: Iterable[PodView]) -> tuple[str, ...]:
    return tuple(sorted({node for pod in pods if (node := pod.node_name or pod.target_node) is not None}))
