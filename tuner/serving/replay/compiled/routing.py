"""Which replica a request goes to."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.jit import compiled

Ints = NDArray[np.int64]
Table = NDArray[np.int64]
Cube = NDArray[np.int64]


@compiled
def overlap(replica: Ints, chain: Ints, caches: Cube, seg: Table) -> int:
    """Prompt tokens that the replica's best rank has cached."""
    best = 0
    if replica[at.PREFIX] == 0:
        return 0
    for rank in range(replica[at.RANKS]):
        cache = caches[replica[at.POOL0] + rank]
        tokens = 0
        for p in range(chain.size):
            if cache[at.SEG_USERS, chain[p]] == at.NONE:
                break
            tokens = seg[at.SEG_END, chain[p]]
        best = max(best, tokens)
    return best


@compiled
def choose(
    policy: int, candidates: Ints, turn: Ints, draw: float, key: int, q: Ints, chain: Ints, replicas: Table,
    rep_f: NDArray[np.float64], caches: Cube, segs: Cube,
) -> int:  # fmt: skip
    """`draw`: a number in [0, 1) that belongs to the request; `key`: its prefix group, or at.NONE."""
    n = candidates.size
    if n == 1:
        return int(candidates[0])
    if policy == at.RANDOM:
        return int(candidates[min(int(draw * n), n - 1)])
    if policy == at.ROUND_ROBIN:
        r = candidates[turn[0] % n]
        turn[0] += 1
        return int(r)
    if policy == at.PREFIX_AFFINITY and key != at.NONE:
        r = candidates[((key * 2654435761) & 0xFFFFFFFF) % n]
        total = 0
        for c in candidates:
            total += replicas[c, at.LOAD]
        if replicas[r, at.LOAD] * n <= 1.25 * total + 4 * n:  # bounded load, as consistent hashing with bounds
            return int(r)
    best, best_cost = candidates[0], 0.0
    for p in range(n):
        c = candidates[p]
        if policy in (at.LEAST_LOADED, at.PREFIX_AFFINITY):
            cost = (replicas[c, at.LOAD] + 1) / rep_f[c, at.WEIGHT]
        else:  # at.KV-aware: tokens to work through before this prompt is done
            cost = (replicas[c, at.LOAD_TOKENS] + q[at.ISL] - overlap(replicas[c], chain, caches, segs[c])) / rep_f[
                c, at.WEIGHT
            ]
        if p == 0 or cost < best_cost:
            best, best_cost = c, cost
    return int(best)
