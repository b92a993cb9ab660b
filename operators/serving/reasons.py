"""Why a deployment is as it is: the one word on its conditions.

Two other sources give words: placement refusals (`operators.placement.reasons`) and the error tree
(`controlplane.model.errors`). `docs/serving-controller.md` explains each; a test keeps the two in step.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Reasons of the conditions Ready, Progressing and, with `spec.auto`, Planned."""

    ALL_READY = "AllReady"
    SCALED_TO_ZERO = "ScaledToZero"
    SUSPENDED = "Suspended"
    DEGRADED = "Degraded"  # enough replicas for the rollout's promise, fewer than wanted
    ROLLING_OUT = "RollingOut"
    SCALING = "Scaling"
    MOVING_TO_BETTER = "MovingToBetterChoice"
    NO_ROOM_FOR_SURGE = "NoRoomForSurge"
    ROLLOUT_STALLED = "RolloutStalled"
    ENGINE_STARTING = "EngineStarting"
    ENGINE_CRASHING = "EngineCrashing"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    CLAIM_UNAVAILABLE = "ClaimUnavailable"  # a PersistentVolumeClaim the pod names is missing or not bound
    CONTAINER_REFUSED = "ContainerRefused"  # the kubelet cannot make the container: missing Secret, bad mount
    STARTUP_DEADLINE_EXCEEDED = "StartupDeadlineExceeded"
    PODS_REFUSED = "PodsRefused"  # the API server does not let us create the pods: quota, admission
    POD_UNSCHEDULABLE = "PodUnschedulable"  # the scheduler binds the pods to none of the nodes placement chose
    NODE_LOST = "NodeLost"
    ROUTER_UNAVAILABLE = "RouterUnavailable"  # the engines answer, the router in front of them does not
    NAME_CONFLICT = "NameConflict"  # somebody else's Service or PodDisruptionBudget has the name we need
    CANARY_STARTING = "CanaryStarting"
    CANARY_OBSERVING = "CanaryObserving"
    CANARY_ROLLED_BACK = "CanaryRolledBack"
    NO_ROOM_FOR_CANARY = "NoRoomForCanary"
    PLANNING = "Planning"  # the planner is at work on an auto deployment
    PLANNED = "Planned"
    PLAN_FAILED = "PlanFailed"  # the planner's error stands in the message
    INTERNAL_ERROR = "InternalError"  # a mistake of ours: the operator's log has the details
    UNREADABLE_SPEC = "UnreadableSpec"  # stored under an older or newer schema
