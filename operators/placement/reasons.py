"""Why a pool refused a gang: one word each, in the order in which the constraints are checked.

Kueue's word is used where it has one (reasons of QuotaReserved=False); the others are ours and say so.
`docs/placement-reasons.md` explains each; a test keeps the two in step.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """First failing constraint. Later members were reached only because all earlier constraints held."""

    MISCONFIGURED = "Misconfigured"  # Kueue: what the request names does not exist
    NO_MATCHING_FLAVOR = "NoMatchingFlavor"  # Kueue: other accelerator
    SUSPENDED = "Suspended"  # Kueue: pool takes nothing new
    POOL_NOT_READY = "PoolNotReady"  # ours: the pool itself is not usable
    EXCEEDS_NODE_SIZE = "ExceedsNodeSize"  # ours: one pod is larger than any node
    EXCEEDS_MAX_QUOTA = "ExceedsMaxQuota"  # Kueue: more than the whole pool has
    NODES_UNAVAILABLE = "NodesUnavailable"  # ours: enough nodes, but not enough usable ones
    NIC_UNAVAILABLE = "NicUnavailable"  # ours: not enough nodes with the NIC class and rails
    NODES_AVOIDED = "NodesAvoided"  # ours: the request itself excludes the nodes
    WAITING_FOR_QUOTA = "WaitingForQuota"  # Kueue: enough exists, not enough is free
    FRAGMENTED = "Fragmented"  # ours: enough is free, in pieces too small
    SPARES_RESERVED = "SparesReserved"  # ours: would fit on nodes kept as spares
    TOPOLOGY_PLACEMENT_FAILED = "TopologyPlacementFailed"  # Kueue: fits the pool, no single domain


ORDER: dict[Reason, int] = {reason: position for position, reason in enumerate(Reason)}
