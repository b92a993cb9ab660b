"""How revisions of a deployment replace each other."""

from typing import Literal

from pydantic import Field

from controlplane.model.canary import Canary
from controlplane.model.resource import Part


class Rollout(Part):
    """How revisions replace each other and how pods leave."""

    max_surge: int = Field(default=1, ge=0, le=100, description="Replicas above spec.replicas during a rollout.")
    max_unavailable: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Ready replicas below spec.replicas during a rollout. Not both zero with maxSurge.",
    )
    drain_seconds: int = Field(
        default=120,
        ge=0,
        le=7200,
        description="Longest time a leaving pod may take to finish its in-flight requests.",
    )
    prefer_better: Literal["Never", "WhenFree"] = Field(
        default="Never",
        description="WhenFree: move replicas back to an earlier choice once it can be placed, one at a time, without losing a request.",
    )
    canary: Canary | None = Field(
        default=None,
        description="Try a change of the pods on a few replicas first; promote it or roll it back by what they measure.",
    )
