"""The constraints on single nodes, one mask after another in the fixed order of `reasons.Reason`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from operators.placement.arrays import Bools, Ints, PoolArrays
from operators.placement.solve import Candidates
from operators.placement.types import GangRequest


@dataclass(slots=True)
class Filtered:
    """Masks from wide to narrow (each includes the one before) and the candidates that meet all of them."""

    usable: Bools
    with_nic: Bools
    allowed: Bools
    candidates: Candidates


def candidates_of(request: GangRequest, arrays: PoolArrays) -> Filtered:
    """Apply every constraint on nodes. The arrays must be fresh."""
    usable = arrays.usable_with(request.tolerations)
    free = arrays.free
    if request.tolerations:
        free = np.where(usable, np.maximum(arrays.capacity - arrays.used, 0), 0)
    with_nic = usable & _nic(request, arrays)
    allowed = with_nic.copy()
    for name in request.avoid_nodes:
        position = arrays.position.get(name)
        if position is not None:
            allowed[position] = False
    slots = np.where(allowed, free // request.units_per_pod, 0)
    empty = arrays.empties()
    spare = arrays.supply.spare_nodes
    budget = max(0, int(np.count_nonzero(empty)) - spare) if spare else len(arrays)
    candidates = Candidates(arrays, free, slots, empty, budget, _peers(request, arrays))
    return Filtered(usable, with_nic, allowed, candidates)


def _nic(request: GangRequest, arrays: PoolArrays) -> Bools:
    mask = np.ones(len(arrays), np.bool_)
    if request.nic_class is not None:
        mask &= arrays.nic == arrays.nic_id(request.nic_class)
    if request.nic_min_per_node is not None:
        mask &= arrays.nic_count >= request.nic_min_per_node
    return mask


def _peers(request: GangRequest, arrays: PoolArrays) -> Ints | None:
    if request.spread != "Spread" or not request.peer_nodes:
        return None
    peers = np.zeros(len(arrays), np.int64)
    for name, count in request.peer_nodes.items():
        position = arrays.position.get(name)
        if position is not None:
            peers[position] = count
    return peers
