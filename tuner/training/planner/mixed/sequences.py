"""Which pool each stage stands on: how many stages every pool gives, and in which order the pools follow each other.

The stages of a pool stand together. Where there are too many ways the usual ones are tried, and it is said that there
are more.
"""

from __future__ import annotations

import itertools
import math
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
    if math.prod(count + 1 for count in most) <= _EVERY_COUNT:
        found = np.array(list(itertools.product(*(range(count + 1) for count in most))), dtype=np.int64)
        return found[found.sum(axis=1) == p], True
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
