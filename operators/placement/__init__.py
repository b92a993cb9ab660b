"""Pools -> nodes -> ranks: pure placement of gangs of pods.

Belongs here: the fleet as arrays, the solver, structured refusals. Does not belong here: reading the cluster
(`operators.pools`), pods and their manifests (`operators.workloads`, `operators.serving`), clocks and I/O.
"""

from operators.placement.fleet import Fleet
from operators.placement.reasons import Reason
from operators.placement.types import (
    GangRequest,
    Placement,
    PoolSupply,
    PoolTotals,
    PoolVerdict,
    Refusal,
    TopologyNeed,
)

__all__ = [
    "Fleet",
    "GangRequest",
    "Placement",
    "PoolSupply",
    "PoolTotals",
    "PoolVerdict",
    "Reason",
    "Refusal",
    "TopologyNeed",
]
