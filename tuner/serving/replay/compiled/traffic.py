"""Requests on their way: to a replica, into its queue, out of it."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.jit import compiled
from tuner.serving.replay.compiled.memory import append, give_back, leave_behind, unlink
from tuner.serving.replay.compiled.schedule import blocks_reserved

Ints = NDArray[np.int64]
Table = NDArray[np.int64]
Cube = NDArray[np.int64]
Floats = NDArray[np.float64]
FloatTable = NDArray[np.float64]


@compiled
def enqueue(
    i: int, r: int, when: float, rq: Table, rf: FloatTable, replicas: Table, lane_at: Floats, lane_busy: Ints
) -> None:
    """Into the list of requests on their way to replica r, ordered by the time they reach it; wakes idle lanes."""
    q = rq[i]
    rf[i, at.ENTRY] = when
    replica = replicas[r]
    after = replica[at.PENDING_TAIL]
    while after != at.NONE and rf[after, at.ENTRY] > when:
        after = rq[after, at.PREV]
    q[at.PREV] = after
    if after == at.NONE:
        q[at.NEXT] = replica[at.PENDING_HEAD]
        replica[at.PENDING_HEAD] = i
    else:
        q[at.NEXT] = rq[after, at.NEXT]
        rq[after, at.NEXT] = i
    if q[at.NEXT] == at.NONE:
        replica[at.PENDING_TAIL] = i
    else:
        rq[q[at.NEXT], at.PREV] = i
    replica[at.LOAD] += 1
    replica[at.LOAD_TOKENS] += q[at.ISL]
    for lane in range(replica[at.LANE0], replica[at.LANE0] + replica[at.LANES]):
        if lane_busy[lane] == 0 and lane_at[lane] > when:
            lane_at[lane] = when


@compiled
def release_held(
    r: int, now: float, rq: Table, rf: FloatTable, replicas: Table, pools: Table, seats_of: Ints, offsets: Ints,
    chains: Ints, caches: Cube, segs: Cube,
) -> None:  # fmt: skip
    """A prefill replica keeps a prompt's blocks until the decode replica has them."""
    replica = replicas[r]
    while replica[at.HELD_HEAD] != at.NONE and rf[replica[at.HELD_HEAD], at.ENTRY] <= now:
        i = replica[at.HELD_HEAD]
        q = rq[i]
        replica[at.HELD_HEAD] = q[at.PNEXT]
        if q[at.PNEXT] == at.NONE:
            replica[at.HELD_TAIL] = at.NONE
        p = seats_of[q[at.SEAT]]
        give_back(q, pools[p], q[at.TARGET], replica[at.BLOCK], chains[offsets[i] : offsets[i + 1]], caches[p], segs[r])


@compiled
def receive(
    r: int, now: float, rq: Table, rf: FloatTable, replicas: Table, pools: Table, waiting: Cube, seats_of: Ints,
    offsets: Ints, chains: Ints, caches: Cube, segs: Cube,
) -> int:  # fmt: skip
    """Requests that have reached replica r join the queue of the rank with the fewest; returns how many can never be
    served (prompt above a step's budget that may not be split, or at.KV cache too small)."""
    replica = replicas[r]
    refused = 0
    while replica[at.PENDING_HEAD] != at.NONE and rf[replica[at.PENDING_HEAD], at.ENTRY] <= now:
        i = replica[at.PENDING_HEAD]
        q = rq[i]
        replica[at.PENDING_HEAD] = q[at.NEXT]
        if q[at.NEXT] == at.NONE:
            replica[at.PENDING_TAIL] = at.NONE
        else:
            rq[q[at.NEXT], at.PREV] = at.NONE
        if q[at.STATE] == at.TRANSFER:
            release_held(q[at.REPLICA], now, rq, rf, replicas, pools, seats_of, offsets, chains, caches, segs)
        budget = replica[at.BUDGET]
        too_long = replica[at.CHUNKED] == 0 and q[at.STATE] != at.TRANSFER and q[at.ISL] > budget
        if too_long or blocks_reserved(q, replica) > replica[at.BLOCKS]:
            q[at.STATE] = at.REJECTED
            replica[at.LOAD] -= 1
            replica[at.LOAD_TOKENS] -= q[at.ISL]
            refused += 1
            continue
        p = replica[at.POOL0]
        for other in range(p + 1, replica[at.POOL0] + replica[at.RANKS]):
            if pools[other, at.ASSIGNED] < pools[p, at.ASSIGNED]:
                p = other
        pools[p, at.ASSIGNED] += 1
        pools[p, at.QUEUED] += 1
        q[at.TARGET] = q[at.ISL]
        q[at.COMPUTED] = q[at.ISL] if q[at.STATE] == at.TRANSFER else 0
        q[at.STATE] = at.WAITING
        append(rq, waiting[p, q[at.CLASS]], i)
    return refused


@compiled
def leave(
    i: int, tokens: int, rq: Table, replica: Ints, seat: Ints, pool: Ints, running: Table, held_back: bool,
    chain: Ints, own: int, cache: Table, seg: Table,
) -> None:  # fmt: skip
    """A request ends its stay at a replica; `held_back`: its blocks stay until they have been transferred."""
    q = rq[i]
    unlink(rq, running[q[at.CLASS]], i)
    seat[at.MEMBERS] -= 1
    pool[at.RUNNING] -= 1
    pool[at.ASSIGNED] -= 1
    replica[at.LOAD] -= 1
    replica[at.LOAD_TOKENS] -= q[at.ISL]
    if replica[at.ADMIT] == at.ADMIT_OUTPUT:
        pool[at.RESERVED] -= blocks_reserved(q, replica)
    if not held_back:
        give_back(q, pool, tokens, replica[at.BLOCK], chain, cache, seg)
        if replica[at.PREFIX] == 1:
            leave_behind(q, pool, own, chain, cache, seg)
