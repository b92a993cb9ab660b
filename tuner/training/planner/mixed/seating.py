"""Layers that stages of some pools seat at most, the pools standing in any order.

The early stages of a pipeline hold more micro-batches and so fewer layers: what a pool seats depends on where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from tuner.training.planner.mixed.cells import Table

_MOST_POOLS = 6  # of which every set is gone through: as many as are tried in every order
_BLOCK = 64  # ways looked at together: often the first ones are enough

_Step = tuple[Table, Table, Table, Table]


def that_seat(layers: int, held: Table, taken: Table) -> Iterator[int]:
    """Rows of `taken` that seat all layers in some order of the pools; of many pools all rows."""
    for start in range(0, len(taken), _BLOCK):
        some = taken[start : start + _BLOCK]
        good = seated(held, some) >= layers if held.shape[1] <= _MOST_POOLS else np.ones(len(some), dtype=np.bool_)
        yield from (start + np.flatnonzero(good)).tolist()


def seated(held: Table, taken: Table) -> Table:
    """Layers that each way to take stages of pools (`taken`, a row each) seats in its best order of the pools; negative
    where every order has a stage without room. `held`: layers per stage, shape (places, pools)."""
    p, pools = held.shape
    none = -p * int(held.max(initial=0)) - 1  # a stage without room spoils its order
    before = np.zeros((p + 1, pools), dtype=np.int64)
    np.cumsum(np.where(held > 0, held, none), axis=0, out=before[1:])
    ends = taken @ _members(pools).T  # places up to which a set of pools stands in front
    most = np.zeros((len(taken), 1 << pools), dtype=np.int64)
    for bigger, smaller, last, first in _steps(pools):
        found = most[:, smaller] + before[ends[:, bigger], last] - before[ends[:, smaller], last]
        most[:, bigger[first]] = np.maximum.reduceat(found, first, axis=1)
    return np.asarray(most[:, -1])


@lru_cache(maxsize=_MOST_POOLS)
def _members(pools: int) -> Table:
    return np.arange(1 << pools)[:, None] >> np.arange(pools) & 1


@lru_cache(maxsize=_MOST_POOLS)
def _steps(pools: int) -> list[_Step]:
    """By size: sets of pools, the same without one of theirs, that one; and where each set starts."""
    has, found = _members(pools), []
    for size in range(1, pools + 1):
        bigger, last = np.nonzero(has * (has.sum(axis=1) == size)[:, None])
        found.append((bigger, bigger ^ (1 << last), last, np.arange(0, len(bigger), size)))
    return found
