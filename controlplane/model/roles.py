"""Separate prefill and decode replicas of one endpoint, as asked for and as they are."""

from typing import Literal

from pydantic import Field

from controlplane.model.choice import AcceleratorChoice
from controlplane.model.resource import Part, StatusPart

ReplicaRole = Literal["Aggregated", "Prefill", "Decode"]
SPLIT_ROLES: tuple[ReplicaRole, ...] = ("Prefill", "Decode")


class RoleReplicas(Part):
    """Replicas of one role."""

    replicas: int = Field(default=1, ge=1, le=64, description="Replicas of this role for each of spec.replicas.")
    choices: list[AcceleratorChoice] = Field(
        min_length=1,
        max_length=16,
        description="Accelerator choices in order, as in spec.explicit.choices.",
    )


class Roles(Part):
    """Separate prefill and decode replicas that hand over the KV cache by the engine's own connector."""

    prefill: RoleReplicas = Field(description="Replicas that read prompts.")
    decode: RoleReplicas = Field(description="Replicas that write answers.")


class RoleStatus(StatusPart):
    """Replicas of one role."""

    role: ReplicaRole = Field(description="Prefill or Decode.")
    desired: int = Field(description="Replicas wanted: those of the role times spec.replicas.")
    replicas: int = Field(description="Replicas that exist.")
    ready: int = Field(description="Of these, ready.")
    updated: int = Field(description="Of these, of the current revision.")
    accelerator: str | None = Field(default=None, description="Accelerator most of them run on.")
    reason: str = Field(default="", description="The reason of their readiness, in the words of the Ready condition.")
