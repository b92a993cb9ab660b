"""What the controller keeps about pods beside their rows: indexes, what of a change is news. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from operators.runtime import key_of
from operators.workloads.podview import PodView

_FAR_S = 86_400

POD_INDEXES: dict[str, Callable[[PodView], tuple[str, ...]]] = {
    "deployment": lambda pod: () if pod.deployment is None else (key_of(pod.namespace, pod.deployment),),
    "node": lambda pod: () if pod.deployment is None or pod.node_name is None else (pod.node_name,),
}
"""Indexes the pods informer must have."""


def told(pod: PodView) -> tuple[object, ...]:
    """The fields of a pod that a decision looks at: a change elsewhere is no news."""
    return (
        pod.uid,
        pod.ready,
        pod.deleting_s,
        pod.phase in ("Failed", "Succeeded"),
        pod.unschedulable_reason == "Unschedulable",
        pod.waiting_reason if pod.waiting_reason not in ("ContainerCreating", "PodInitializing") else None,
        pod.exit_code,
        pod.status_reason,
    )


def leaving(pod: PodView, now_s: int) -> PodView:
    """A pod whose deletion we have asked for and the watch has not shown yet."""
    return msgspec.structs.replace(pod, deleting_s=now_s + _FAR_S)
