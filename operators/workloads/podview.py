"""The projected pod: what inventory and controllers read, and nothing else.

`PodWire` is what the decoder takes from the JSON; `project` flattens it to one
`PodView` without inner objects, with strings that repeat across pods shared. A pod cached this way costs about a
kilobyte instead of tens (reference figures: 34 KB as a dict).
"""

from __future__ import annotations

import sys
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec

from operators.workloads.podwire import (
    AffinityWire,
    AnnotationsWire,
    ConditionWire,
    LabelsWire,
    OwnerWire,
    PodWire,
    RequirementWire,
    StatusWire,
    TerminatedWire,
    WaitingWire,
)
from operators.workloads.requests import Requests, requests_of

_MESSAGE_MAX = 512


class PodView(msgspec.Struct, frozen=True, gc=False):
    """One pod. Times are whole seconds since the epoch; `None` means unknown or not there."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    phase: str  # Pending | Running | Succeeded | Failed | Unknown
    owner_uid: str | None = None  # uid of the controlling owner
    node_name: str | None = None  # where it is bound
    target_node: str | None = None  # the single node its required affinity admits, bound or not
    requests: Requests = ()  # sorted (resource, amount): cpu in millicores, device resources in units
    ready: bool = False
    scheduled: bool = False
    gated: bool = False  # scheduling gates are present
    created_s: int = 0
    started_s: int | None = None  # status.startTime: the kubelet took it
    ready_changed_s: int | None = None  # last transition of the Ready condition
    deleting_s: int | None = None  # metadata.deletionTimestamp (end of the grace period)
    unschedulable_reason: str | None = None  # PodScheduled=False: Unschedulable, SchedulingGated, ...
    unschedulable_message: str | None = None
    nominated_node: str | None = None  # the scheduler makes room for it there by preemption
    status_reason: str | None = None  # Evicted, NodeLost, UnexpectedAdmissionError, ...
    restarts: int = 0  # over all containers
    waiting_reason: str | None = None  # ImagePullBackOff, CrashLoopBackOff, ContainerCreating, ...
    waiting_message: str | None = None
    exit_code: int | None = None  # most recent failed termination of a container
    exit_reason: str | None = None  # Error, OOMKilled, ...
    pod_ip: str | None = None
    # labels and annotations of trimtab.dev
    deployment: str | None = None
    revision: str | None = None
    replica: int | None = None
    rank: int | None = None
    pool: str | None = None
    accelerator: str | None = None
    engine: str | None = None
    units: int | None = None
    choice: int | None = None
    role: str | None = None  # Prefill or Decode; None for an aggregated replica

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def terminal(self) -> bool:
        """Succeeded or Failed: it will never run again and holds nothing."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def deleting(self) -> bool:
        """Deletion was asked for; it holds its resources until it is gone."""
        return self.deleting_s is not None

    @property
    def leader(self) -> bool:
        """Rank 0 of its replica answers requests."""
        return self.rank == 0

    def request(self, resource: str) -> int:
        """What it asks of one resource; millicores for `cpu`, else units. 0 when it asks none."""
        for name, amount in self.requests:
            if name == resource:
                return amount
        return 0


def project(wire: PodWire) -> PodView:
    """Flatten a decoded pod. Never raises: an unreadable quantity counts as nothing asked."""
    meta, spec, status = wire.metadata, wire.spec, wire.status
    ours = meta.labels
    mark = _NO_MARK if ours is None or ours.deployment is None else _mark(ours, meta.annotations)
    ready, ready_changed_s, scheduled, why_not, why_not_message = _conditions(status.conditions)
    restarts, waiting, terminated = _containers(status)
    deleting = meta.deletion_timestamp
    # By position, in the order of the fields: naming 37 arguments would cost as much as decoding half of the pod.
    return PodView(
        meta.name,
        sys.intern(meta.namespace),
        meta.uid,
        meta.resource_version,
        sys.intern(status.phase) if status.phase else "Pending",
        _owner(meta.owner_references),
        sys.intern(spec.node_name) if spec.node_name else None,
        None if spec.affinity is None else _target(spec.affinity),
        requests_of(spec),
        ready,
        scheduled or bool(spec.node_name),
        bool(spec.scheduling_gates),
        _seconds(meta.creation_timestamp) or 0,
        _seconds(status.start_time),
        ready_changed_s,
        None if deleting is None else _seconds(deleting),
        why_not,
        why_not_message,
        _intern(status.nominated_node_name or None),
        _intern(status.reason),
        restarts,
        _intern(waiting.reason) if waiting else None,
        waiting.message[:_MESSAGE_MAX] if waiting and waiting.message else None,
        terminated.exit_code if terminated else None,
        _intern(terminated.reason) if terminated else None,
        status.pod_ip,
        mark.deployment,
        mark.revision,
        mark.replica,
        mark.rank,
        mark.pool,
        mark.accelerator,
        mark.engine,
        mark.units,
        mark.choice,
        mark.role,
    )


class _Mark(NamedTuple):
    """What our labels and annotations say of a pod that we made."""

    deployment: str | None = None
    revision: str | None = None
    replica: int | None = None
    rank: int | None = None
    pool: str | None = None
    accelerator: str | None = None
    engine: str | None = None
    units: int | None = None
    choice: int | None = None
    role: str | None = None


_NO_MARK = _Mark()


def _mark(ours: LabelsWire, notes: AnnotationsWire | None) -> _Mark:
    return _Mark(
        _intern(ours.deployment),
        _intern(ours.revision),
        _integer(ours.replica),
        _integer(ours.rank),
        _intern(ours.pool),
        _intern(ours.accelerator),
        _intern(ours.engine),
        None if notes is None else _integer(notes.units),
        None if notes is None else _integer(notes.choice),
        _intern(ours.role),
    )


def _target(affinity: AffinityWire) -> str | None:
    """The node that required node affinity names, when it names exactly one.

    Terms are alternatives and requirements inside one are joint, so only a single term pins a pod, by the field
    `metadata.name` or the host name label.
    """
    node = affinity.node_affinity
    required = node.required_during_scheduling_ignored_during_execution if node else None
    terms = required.node_selector_terms if required else None
    if not terms or len(terms) != 1:
        return None
    return _one_node(terms[0].match_fields, "metadata.name") or _one_node(
        terms[0].match_expressions, "kubernetes.io/hostname"
    )


def _one_node(requirements: list[RequirementWire] | None, key: str) -> str | None:
    for requirement in requirements or ():
        values = requirement.values
        if requirement.key == key and requirement.operator == "In" and values and len(values) == 1:
            return sys.intern(values[0])
    return None


def _conditions(
    conditions: list[ConditionWire] | None,
) -> tuple[bool, int | None, bool, str | None, str | None]:
    ready, changed_s, scheduled = False, None, False
    reason: str | None = None
    message: str | None = None
    for condition in conditions or ():
        kind = condition.type
        if kind == "Ready":
            ready = condition.status == "True"
            changed_s = _epoch(condition.last_transition_time)
        elif kind == "PodScheduled":
            scheduled = condition.status == "True"
            if not scheduled:
                reason = _intern(condition.reason)
                message = condition.message[:_MESSAGE_MAX] if condition.message else None
    return ready, changed_s, scheduled, reason, message


def _containers(status: StatusWire) -> tuple[int, WaitingWire | None, TerminatedWire | None]:
    """Restarts in total; the first waiting container; the first failed termination, current before last."""
    if status.init_container_statuses is None and status.container_statuses is None:
        return 0, None, None
    restarts = 0
    waiting: WaitingWire | None = None
    failed_now: TerminatedWire | None = None
    failed_before: TerminatedWire | None = None
    for statuses in (status.init_container_statuses, status.container_statuses):
        for one in statuses or ():
            restarts += one.restart_count
            state, last = one.state, one.last_state
            if state is not None and state.waiting is not None:
                # an init container that still waits keeps all later ones in PodInitializing
                waiting = waiting or state.waiting
            if state is not None and state.terminated is not None and state.terminated.exit_code != 0:
                failed_now = failed_now or state.terminated
            if last is not None and last.terminated is not None and last.terminated.exit_code != 0:
                failed_before = failed_before or last.terminated
    return restarts, waiting, failed_now or failed_before


def _owner(owners: list[OwnerWire] | None) -> str | None:
    for owner in owners or ():
        if owner.controller:
            return _intern(owner.uid)
    return None


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


@lru_cache(maxsize=4096)
def _epoch(text: str | None) -> int | None:
    try:
        return None if text is None else int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 18 else None


def _intern(text: str | None) -> str | None:
    return None if text is None else sys.intern(text)
