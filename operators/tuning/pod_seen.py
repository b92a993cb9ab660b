"""A trial pod and its node as the API server shows them, in the floor's words. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from controlplane.model.tuning_pods import PodPhase, PodSeen
from operators.workloads.quantity import milli

_PHASES: dict[str, PodPhase] = {phase.capitalize(): phase for phase in get_args(PodPhase)}
_TYPE_LABELS = ("node.kubernetes.io/instance-type", "nvidia.com/gpu.product")
_HARDWARE_CHARS = 256


def seen_of(body: bytes, container: str) -> tuple[str, PodSeen]:
    """Its uid, and what is to be seen of it and of the container that is measured. A container that has ended says why
    itself; the pod's own word (Evicted, NodeLost) goes before that, the scheduler's before all. An init container that
    failed has a reason of its own, as `kubectl get` words it: it says nothing about what was to be measured."""
    pod = json.loads(body)
    metadata, status = pod["metadata"], pod.get("status") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or []}
    scheduled = conditions.get("PodScheduled") or {}
    state = _state(status, container)
    ended, waiting = state.get("terminated"), state.get("waiting")
    reason, message = "", ""
    for said in (waiting, ended, status, scheduled if scheduled.get("status") == "False" else None):
        if said and said.get("reason"):
            reason, message = said["reason"], said.get("message") or ""
    return metadata["uid"], PodSeen(
        _PHASES.get(status.get("phase", ""), "pending"),
        scheduled=scheduled.get("status") == "True",
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        deleting="deletionTimestamp" in metadata,
        address=status.get("podIP"),
        node=(pod.get("spec") or {}).get("nodeName"),
        reason=reason,
        message=message,
        exit_code=ended.get("exitCode") if ended else None,
    )


def _state(status: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    """Of the measured container; of an init container that keeps it from starting."""
    for one in status.get("initContainerStatuses") or []:
        state = one.get("state") or {}
        if state.get("waiting"):
            return dict(state)
        ended = state.get("terminated") or {}
        if ended.get("exitCode"):
            reason = f"Init:{ended.get('reason') or 'Error'}"
            message = f"{one['name']} ended with status {ended['exitCode']}. {ended.get('message') or ''}".rstrip()
            return {"terminated": {**ended, "reason": reason, "message": message}}
    for one in status.get("containerStatuses") or []:
        if one["name"] == container:
            return dict(one.get("state") or {})
    return {}


def hardware_words(body: bytes) -> str:
    """Names a node's hardware, without its name."""
    node = json.loads(body)
    found, status = node["metadata"].get("labels") or {}, node.get("status") or {}
    capacity, info = status.get("capacity") or {}, status.get("nodeInfo") or {}
    words = [found[label] for label in _TYPE_LABELS if label in found]
    words.append(info.get("architecture") or "unknown architecture")
    if "cpu" in capacity:
        words.append(f"{milli(capacity['cpu']) / 1000:g} CPUs")
    if "memory" in capacity:
        words.append(f"{milli(capacity['memory']) / 1000 / 2**30:.0f} GiB")
    devices = {name: text for name, text in capacity.items() if "/" in name and text != "0"}
    words += [f"{devices[name]} {name}" for name in sorted(devices)]
    words.append(f"{info.get('operatingSystem', 'linux')} {info.get('kernelVersion', '')}".strip())
    return ", ".join(words)[:_HARDWARE_CHARS]
