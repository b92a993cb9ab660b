"""What a decision may ask the executor to do. Decisions return these; only the executor touches the cluster."""

from dataclasses import dataclass
from typing import Any, Literal

from controlplane.model.live import EnginePod


@dataclass(frozen=True, slots=True)
class CreatePod:
    """Create one pod. The name is fixed by the decision, so a repeated create collides instead of duplicating."""

    manifest: dict[str, Any]
    node: str
    accelerator_units: int


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete one pod by name and uid; the kubelet drains it within `grace_s` seconds."""

    name: str
    uid: str
    grace_s: int
    why: str


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of one object (Service, PodDisruptionBudget)."""

    resource: str
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one object by name."""

    resource: str
    name: str


@dataclass(frozen=True, slots=True)
class Record:
    """Publish one Kubernetes event on the object under decision."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """Replace the object's status when it differs from what is stored."""

    status: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Requeue:
    """Look again in `after_s` seconds."""

    after_s: float


@dataclass(frozen=True, slots=True)
class AwaitRoom:
    """Look again when accelerators may have become free; lower `rank` first, then the older (`since_s`) object."""

    rank: int
    since_s: float


@dataclass(frozen=True, slots=True)
class Remember:
    """Hand `notes` to the next decision on this object. They die with the process: nothing may depend on them."""

    notes: object


@dataclass(frozen=True, slots=True)
class ReadEngines:
    """Read the counters of these engines now, and look again when they are there."""

    pods: tuple[EnginePod, ...]


Action = CreatePod | DeletePod | Apply | Delete | Record | WriteStatus | Requeue | AwaitRoom | Remember | ReadEngines
