"""Which pool each stage stands on: how many stages every pool gives, and in which order the pools follow each other.

The stages of a pool stand together. Where there are too many ways the usual ones are tried, and it is said that there
are more.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np

from tuner.training.planner.mixed.cells import Table

EVERY_ORDER = 6  # most pools in a pipeline whose every order (720) is tried
_EVERY_COUNT = 4096  # most ways to take stages of pools that are gone through
_SUBSETS = 8  # most pools of which every subset is tried

Orders = tuple[tuple[int, ...], ...]


@lru_cache(maxsize=4096)
def counts(stages: tuple[int, ...], p: int, orders: Orders) -> tuple[Table, bool]:
    """Stages of each pool that make p, a row per way, and whether these are all. Else pools in full, left out and one
    in part; of many pools only the first ones and the last ones of some orders."""
    most = [min(count, p) for count in stages]
    if _number(most, p) <= _EVERY_COUNT:
        return _every(most, p), True
    rows: dict[tuple[int, ...], None] = {}
    for chosen in _subsets(len(stages), orders):
        full = [count * take for count, take in zip(most, chosen, strict=True)]
        over = sum(full) - p
        if over == 0:
            rows[tuple(full)] = None
        for at, count in enumerate(full):
            if 0 < over < count:
                rows[(*full[:at], count - over, *full[at + 1 :])] = None
    return np.array(list(rows), dtype=np.int64).reshape(-1, len(stages)), False


def _number(most: list[int], p: int) -> int:
    """Ways to take p stages, no more of a pool than it has."""
    found = [1] + [0] * p
    for count in most:
        sums = list(itertools.accumulate(found))
        found = [each - (sums[at - count - 1] if at > count else 0) for at, each in enumerate(sums)]
    return found[p]


def _every(most: list[int], p: int) -> Table:
    rows = np.zeros((1, 0), dtype=np.int64)
    for at, count in enumerate(most):
        left, behind = p - rows.sum(axis=1), sum(most[at + 1 :])
        low, high = np.maximum(left - behind, 0), np.minimum(left, count)
        some = np.maximum(high - low + 1, 0)
        first = np.repeat(np.cumsum(some) - some, some)
        rows = np.column_stack([np.repeat(rows, some, axis=0), np.repeat(low, some) + np.arange(some.sum()) - first])
    return np.asarray(rows)


def _subsets(pools: int, orders: Orders) -> list[tuple[bool, ...]]:
    if pools <= _SUBSETS:
        return list(itertools.product((False, True), repeat=pools))
    ends = [end for order in orders for size in range(1, pools + 1) for end in (order[:size], order[-size:])]
    return list(dict.fromkeys(tuple(pool in end for pool in range(pools)) for end in ends))


def neighbours(pools: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The same line with two pools exchanged, one moved elsewhere, or one left out."""
    blocks = [list(block) for _, block in itertools.groupby(pools)]
    found: dict[tuple[int, ...], None] = {}
    for one in range(len(blocks)):
        rest = blocks[:one] + blocks[one + 1 :]
        others = [rest, *([*rest[:at], blocks[one], *rest[at:]] for at in range(len(blocks)))]
        for two in range(one):
            swapped = list(blocks)
            swapped[one], swapped[two] = swapped[two], swapped[one]
            others.append(swapped)
        for other in others:
            found[tuple(itertools.chain.from_iterable(other))] = None
    found.pop((), None)
    found.pop(pools, None)
    return list(found)


@lru_cache(maxsize=4096)
def ways(taken: tuple[int, ...], orders: Orders) -> tuple[Table, bool]:
    """Pools of all stages, a row per order of the pools, and whether these are all."""
    used = [pool for pool, count in enumerate(taken) if count]
    whole = len(used) <= EVERY_ORDER
    every = itertools.permutations(used) if whole else (tuple(p for p in order if taken[p]) for order in orders)
    found = list(dict.fromkeys(tuple(each) for each in every))
    blocks = np.array(found, dtype=np.int64).reshape(len(found), len(used))
    repeats = np.array(taken, dtype=np.int64)[blocks]
    rows = [np.repeat(block, repeat) for block, repeat in zip(blocks, repeats, strict=True)]
    return np.array(rows, dtype=np.int64).reshape(len(found), sum(taken)), whole
