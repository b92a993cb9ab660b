"""What a measurement is told of the pod that its trial runs in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PodPhase = Literal["pending", "running", "succeeded", "failed", "gone"]


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A pod as the cluster shows it. `reason` and `message`: why it waits or how it ended (Unschedulable,
    ImagePullBackOff, OOMKilled, Evicted); `exit_code`: of its container, once that has ended. `deleting`: somebody has
    told it to go."""

    phase: PodPhase
    scheduled: bool = False
    ready: bool = False
    deleting: bool = False
    address: str | None = None
    node: str | None = None
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
