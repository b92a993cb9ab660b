"""From pods to replicas: which exist, which answer, what is wrong with them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from operators.serving.reasons import Reason
from operators.serving.render import ReplicaTemplate
from operators.serving.snapshot import NodeState, PlanSettings, Snapshot
from operators.workloads.podview import PodView

# kubelet/images and kubelet/kuberuntime: why a container waits.
_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
    | {"RegistryUnavailable", "SignatureValidationFailed"}
)
_CONTAINER_REASONS = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError"}
    | {"PreStartHookError", "PostStartHookError"}
)
# Pod status.reason of pods that their node turned away or threw out: the next one goes elsewhere.
_TURNED_AWAY = frozenset(
    {"Evicted", "NodeShutdown", "Shutdown", "Terminated", "NodeAffinity", "Preempting", "Preempted", "NodeLost"}
    | {"UnexpectedAdmissionError", "TopologyAffinityError"}
)


class Fate(Enum):
    """What has become of a pod."""

    FINE = "fine"  # ready, or on its way
    LEAVING = "leaving"  # deletion was asked for
    ENDED = "ended"  # its containers ended and are not restarted
    TURNED_AWAY = "turned away"  # by its node: admission, eviction, shutdown
    LOST = "lost"  # with its node
    STRANDED = "stranded"  # the scheduler cannot bind it to its node: somebody was faster, or something is lacking
    OVERDUE = "overdue"  # not ready within the startup deadline


@dataclass(frozen=True, slots=True)
class Replica:
    """Pods of one (revision, slot). `template` is None when no current choice renders this revision.

    `alive`: pods whose deletion was not asked for, by rank, and their fates. `going`: the others, which still hold their
    names. `missing`: ranks without any pod.
    """

    revision: str
    slot: int
    template: ReplicaTemplate | None
    alive: tuple[PodView, ...]
    fates: tuple[Fate, ...]
    going: tuple[PodView, ...]
    missing: tuple[int, ...]

    @property
    def leaving(self) -> bool:
        """Nothing of it stays."""
        return not self.alive

    @property
    def whole(self) -> bool:
        """Every rank is there and none has failed."""
        return not self.missing and not self.going and all(fate is Fate.FINE for fate in self.fates)

    @property
    def ready(self) -> bool:
        """The engine answers: all pods are ready (rank 0 by the engine's own health)."""
        return self.whole and all(pod.ready for pod in self.alive)

    @property
    def choice(self) -> int:
        """Position of its choice; behind all choices when it has none."""
        return 1_000 if self.template is None else self.template.choice_index

    @property
    def created_s(self) -> int:
        return min((pod.created_s for pod in self.alive), default=0)

    @property
    def pool(self) -> str:
        return next((pod.pool for pod in self.alive if pod.pool), "")

    @property
    def accelerator(self) -> str:
        return next((pod.accelerator for pod in self.alive if pod.accelerator), "")

    @property
    def unready_since_s(self) -> int:
        """Since when it does not answer; 0 when it does."""
        return max((unready_since_s(pod) for pod in self.alive if not pod.ready), default=0)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a replica from answering, in the container's own words."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """`occupied`: slots per revision whose pod names exist. `stuck`: leaving pods that no kubelet will ever end."""

    replicas: tuple[Replica, ...]
    occupied: dict[str, set[int]]
    stuck: tuple[PodView, ...]


def gather(snapshot: Snapshot, settings: PlanSettings, now_s: float) -> Gathered:
    """Group the pods of a deployment. Pods of another owner (a predecessor of the same name) only hold their names."""
    uid = snapshot.deployment.metadata.uid
    occupied: dict[str, set[int]] = {}
    groups: dict[tuple[str, int], list[PodView]] = {}
    stuck = []
    for pod in snapshot.pods:
        if pod.revision is None or pod.replica is None or pod.rank is None:
            continue
        occupied.setdefault(pod.revision, set()).add(pod.replica)
        if pod.owner_uid != uid:
            continue
        groups.setdefault((pod.revision, pod.replica), []).append(pod)
        if pod.deleting_s is not None and pod.deleting_s < now_s and _gone(pod, snapshot.node_state):
            stuck.append(pod)
    replicas = tuple(
        _replica(snapshot, settings, now_s, revision, slot, pods)
        for (revision, slot), pods in sorted(groups.items(), key=lambda item: item[0])
    )
    return Gathered(replicas, occupied, tuple(stuck))


def fate(pod: PodView, snapshot: Snapshot, settings: PlanSettings, now_s: float) -> Fate:
    """Judge one pod."""
    if pod.deleting:
        return Fate.LEAVING
    if pod.terminal:
        return Fate.TURNED_AWAY if _turned_away(pod.status_reason) else Fate.ENDED
    if pod.node_name is None:
        refused = pod.unschedulable_reason == "Unschedulable" and not _waits_for_claim(pod)
        if pod.nominated_node is not None:
            return Fate.FINE  # preempted pods may take their whole grace period to go
        late = now_s - pod.created_s >= settings.lost_race_after_s
        return Fate.STRANDED if refused and late else Fate.FINE
    if pod.ready:
        return Fate.FINE
    unready_s = now_s - unready_since_s(pod)
    if unready_s >= settings.silent_after_s and snapshot.node_state(pod.node_name) is not NodeState.READY:
        return Fate.LOST
    if pod.started_s is not None and unready_s >= snapshot.deployment.spec.startup_deadline_seconds:
        return Fate.OVERDUE
    return Fate.FINE


def unready_since_s(pod: PodView) -> int:
    """Start of the present wait for readiness: the kubelet took the pod, or readiness was lost."""
    return max(pod.created_s, pod.started_s or 0, pod.ready_changed_s or 0)


def trouble(replica: Replica) -> Trouble | None:
    """Why a replica that is not ready will not become so by waiting; None when nothing says that."""
    if replica.ready:
        return None
    for pod in replica.alive:
        if pod.ready:
            continue
        if pod.node_name is None and _waits_for_claim(pod):
            return Trouble(Reason.CLAIM_UNAVAILABLE, f"pod {pod.name}: {pod.unschedulable_message}")
        waits, said = pod.waiting_reason, pod.waiting_message or pod.waiting_reason
        if waits in _IMAGE_REASONS:
            return Trouble(Reason.IMAGE_UNAVAILABLE, f"pod {pod.name}: {said}")
        if waits in _CONTAINER_REASONS:
            return Trouble(Reason.CONTAINER_REFUSED, f"pod {pod.name}: {said}")
        if waits == "CrashLoopBackOff" or (pod.exit_code is not None and not pod.deleting):
            return Trouble(Reason.ENGINE_CRASHING, f"pod {pod.name}: {how_it_ended(pod)}")
    return None


def how_it_ended(pod: PodView) -> str:
    """The last failed termination of a pod's containers, for a person."""
    if pod.status_reason:
        return pod.status_reason
    if pod.exit_code is None:
        return pod.waiting_message or "a container ended"
    why = f" ({pod.exit_reason})" if pod.exit_reason and pod.exit_reason != "Error" else ""
    return f"a container ended with code {pod.exit_code}{why}; its log says why (kubectl logs --previous)"


def _replica(
    snapshot: Snapshot, settings: PlanSettings, now_s: float, revision: str, slot: int, pods: Sequence[PodView]
) -> Replica:
    alive = tuple(sorted((pod for pod in pods if not pod.deleting), key=_rank))
    template = _template_of(revision, alive or tuple(pods), snapshot.templates)
    ranks = {_rank(pod) for pod in pods}
    # Only its template knows the size of a gang; without one the highest rank seen must do.
    size = template.pods if template is not None else max(ranks) + 1
    return Replica(
        revision=revision,
        slot=slot,
        template=template,
        alive=alive,
        fates=tuple(fate(pod, snapshot, settings, now_s) for pod in alive),
        going=tuple(pod for pod in pods if pod.deleting),
        missing=tuple(rank for rank in range(size) if rank not in ranks),
    )


def _template_of(
    revision: str, pods: Sequence[PodView], templates: Iterable[ReplicaTemplate]
) -> ReplicaTemplate | None:
    """The current choice that renders this revision; choices that differ only in pools share one."""
    candidates = [template for template in templates if template.revision == revision]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    pool, index = pods[0].pool, pods[0].choice
    by_pool = [template for template in candidates if pool in template.pools]
    by_index = [template for template in by_pool or candidates if template.choice_index == index]
    return (by_index or by_pool or candidates)[0]


def _rank(pod: PodView) -> int:
    return pod.rank or 0


def _gone(pod: PodView, node_state: Callable[[str], NodeState]) -> bool:
    return pod.node_name is not None and node_state(pod.node_name) is NodeState.GONE


def _waits_for_claim(pod: PodView) -> bool:
    """kube-scheduler (VolumeBinding): the claim is missing or unbound. No other node would do better."""
    return "persistentvolumeclaim" in (pod.unschedulable_message or "").lower()


def _turned_away(reason: str | None) -> bool:
    return reason is not None and (reason in _TURNED_AWAY or reason.startswith("OutOf"))
