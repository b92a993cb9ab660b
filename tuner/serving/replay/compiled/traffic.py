"""Requests on their way: which replica they go to, into its queue, out of it."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.jit import compiled
from tuner.serving.replay.compiled.members import blocks_reserved
from tuner.serving.replay.compiled.memory import append, give_back, leave_behind, request, times, unlink

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def overlap(m: Ints, q: int, replica: int) -> int:
    """Prompt tokens that the replica's best rank has cached."""
    best = 0
    if m[replica + at.PREFIX] == 0:
        return 0
    for rank in range(m[replica + at.RANKS]):
        pool = m[replica + at.POOLS_AT] + rank * at.POOL_INTS
        tokens = 0
        for p in range(m[q + at.CHAIN_N]):
            s = m[m[q + at.CHAIN_AT] + p]
            if m[m[pool + at.CACHE_AT] + 3 * s + at.SEG_USERS] == at.NONE:
                break
            tokens = m[m[pool + at.SEGMENTS_AT] + 2 * s + at.SEG_END]
        best = max(best, tokens)
    return best


@compiled
def choose(m: Ints, f: Floats, i: int, decode: bool) -> int:
    """The replica (address) a request goes to, for its prompt or for its decoding."""
    q = request(m, i)
    begin = m[at.DECODERS_AT] if decode else m[at.FRONT_AT]
    n = m[at.DECODERS_N] if decode else m[at.FRONT_N]
    policy = m[at.DECODE_ROUTER] if decode else m[at.ROUTER]
    if n == 1:
        return int(m[begin])
    if policy == at.RANDOM:
        draw = f[m[at.DRAWS_AT] + 2 * i + (1 if decode else 0)]
        return int(m[begin + min(int(draw * n), n - 1)])
    if policy == at.ROUND_ROBIN:
        turn = at.DECODE_TURN if decode else at.FRONT_TURN
        m[turn] += 1
        return int(m[begin + (m[turn] - 1) % n])
    if policy == at.PREFIX_AFFINITY and m[q + at.GROUP] != at.NONE:
        home = m[begin + ((m[q + at.GROUP] * 2654435761) & 0xFFFFFFFF) % n]
        total = 0
        for p in range(n):
            total += m[m[begin + p] + at.LOAD]
        if m[home + at.LOAD] * n <= 1.25 * total + 4 * n:  # bounded load: a hot group spills over
            return int(home)
    best, best_cost = m[begin], 0.0
    for p in range(n):
        replica = m[begin + p]
        if policy == at.KV_AWARE:  # tokens to work through before this prompt is done
            cost = float(m[replica + at.LOAD_TOKENS] + m[q + at.ISL] - overlap(m, q, replica))
        else:
            cost = m[replica + at.LOAD] + 1.0
        cost /= f[m[replica + at.RATES_AT] + at.WEIGHT]
        if p == 0 or cost < best_cost:
            best, best_cost = replica, cost
    return int(best)


@compiled
def enqueue(m: Ints, f: Floats, i: int, replica: int, when: float) -> None:
    """Into the list of requests on their way to a replica, ordered by the time they reach it; wakes idle lanes."""
    q = request(m, i)
    f[times(m, i) + at.ENTRY] = when
    after = m[replica + at.PENDING_TAIL]
    while after != at.NONE and f[times(m, after) + at.ENTRY] > when:
        after = m[request(m, after) + at.PREV]
    m[q + at.PREV] = after
    if after == at.NONE:
        m[q + at.NEXT] = m[replica + at.PENDING_HEAD]
        m[replica + at.PENDING_HEAD] = i
    else:
        m[q + at.NEXT] = m[request(m, after) + at.NEXT]
        m[request(m, after) + at.NEXT] = i
    if m[q + at.NEXT] == at.NONE:
        m[replica + at.PENDING_TAIL] = i
    else:
        m[request(m, m[q + at.NEXT]) + at.PREV] = i
    m[replica + at.LOAD] += 1
    m[replica + at.LOAD_TOKENS] += m[q + at.ISL]
    wake(m, f, replica, when)


@compiled
def wake(m: Ints, f: Floats, replica: int, when: float) -> None:
    """Idle lanes of a replica look for work at this time."""
    for lane in range(m[replica + at.LANE0], m[replica + at.LANE0] + m[replica + at.LANES]):
        if m[m[at.LANES_AT] + lane * at.LANE_INTS + at.LANE_BUSY] == 0:
            f[m[at.LANE_END_AT] + lane] = min(f[m[at.LANE_END_AT] + lane], when)


@compiled
def release_held(m: Ints, f: Floats, replica: int, now: float) -> None:
    """A prefill replica keeps a prompt's blocks until the decode replica has them."""
    while m[replica + at.HELD_HEAD] != at.NONE and f[times(m, m[replica + at.HELD_HEAD]) + at.ENTRY] <= now:
        q = request(m, m[replica + at.HELD_HEAD])
        m[replica + at.HELD_HEAD] = m[q + at.PNEXT]
        if m[q + at.PNEXT] == at.NONE:
            m[replica + at.HELD_TAIL] = at.NONE
        give_back(m, q, m[m[q + at.SEAT] + at.OF_POOL], m[q + at.TARGET], m[replica + at.BLOCK])


@compiled
def seen_until(m: Ints, f: Floats, replica: int, now: float) -> float:
    """Requests that reached a replica up to this time join its queue now; -1: nobody does. Rules: `EngineRules`."""
    if m[replica + at.LANES] > 1:
        return now
    running = 0
    sequences = 0
    decoders = 0
    for rank in range(m[replica + at.RANKS]):
        seat = m[replica + at.SEATS_AT] + rank * at.SEAT_INTS
        running += m[seat + at.MEMBERS]
        sequences += m[seat + at.SEQUENCES]
        decoders += m[seat + at.SEQUENCES] > 0
    if running == 0:
        m[replica + at.SINCE_RECEIVE] = 0
        m[replica + at.WAITED] = 0
        return now
    if m[replica + at.RECEIVE_EVERY] > 1:
        if m[replica + at.SINCE_RECEIVE] < m[replica + at.RECEIVE_EVERY]:
            return -1.0
        m[replica + at.SINCE_RECEIVE] = 0
    seen = f[m[replica + at.RATES_AT] + at.LAST_START] if m[replica + at.AHEAD] == 1 else now
    waits = m[replica + at.WAIT_ITERATIONS] if sequences > 0 else 0
    balances = m[replica + at.BALANCE] if decoders == m[replica + at.RANKS] else 0
    if waits > 0 or balances > 0:
        tokens = sequences
        come = 0
        i = m[replica + at.PENDING_HEAD]
        while i != at.NONE and f[times(m, i) + at.ENTRY] <= seen:
            tokens += m[request(m, i) + at.ISL]
            come += 1
            i = m[request(m, i) + at.NEXT]
        few = tokens < m[replica + at.WAIT_TOKENS] and m[replica + at.WAITED] < waits
        uneven = come < m[replica + at.RANKS] and m[replica + at.WAITED] < balances
        if come > 0 and (few or uneven):
            m[replica + at.WAITED] += 1
            return -1.0
        m[replica + at.WAITED] = 0
    return float(seen)


@compiled
def receive(m: Ints, f: Floats, replica: int, now: float) -> int:
    """Requests that have reached a replica join the queue of the rank with the fewest; returns how many can never be
    served (prompt above a step's budget that may not be split, or KV cache too small)."""
    refused = 0
    while m[replica + at.PENDING_HEAD] != at.NONE and f[times(m, m[replica + at.PENDING_HEAD]) + at.ENTRY] <= now:
        i = m[replica + at.PENDING_HEAD]
        q = request(m, i)
        m[replica + at.PENDING_HEAD] = m[q + at.NEXT]
        if m[q + at.NEXT] == at.NONE:
            m[replica + at.PENDING_TAIL] = at.NONE
        else:
            m[request(m, m[q + at.NEXT]) + at.PREV] = at.NONE
        transferred = m[q + at.STATE] == at.TRANSFER
        if transferred:
            release_held(m, f, m[q + at.REPLICA], now)
        unsplit = m[replica + at.CHUNKED] == 0 and not transferred
        if (unsplit and m[q + at.ISL] > m[replica + at.PREFILL_BUDGET]) or (
            blocks_reserved(m, q, replica) > m[replica + at.BLOCKS]
        ):
            m[q + at.STATE] = at.REJECTED
            m[replica + at.LOAD] -= 1
            m[replica + at.LOAD_TOKENS] -= m[q + at.ISL]
            refused += 1
            continue
        pool = m[replica + at.POOLS_AT]
        for rank in range(1, m[replica + at.RANKS]):
            other = m[replica + at.POOLS_AT] + rank * at.POOL_INTS
            if m[other + at.ASSIGNED] < m[pool + at.ASSIGNED]:
                pool = other
        m[pool + at.ASSIGNED] += 1
        m[pool + at.QUEUED] += 1
        m[q + at.TARGET] = m[q + at.ISL]
        m[q + at.COMPUTED] = m[q + at.ISL] if transferred else 0
        m[q + at.STATE] = at.WAITING
        append(m, m[pool + at.WAITING_AT] + 2 * m[q + at.CLASS], i)
    return refused


@compiled
def leave(m: Ints, i: int, seat: int, tokens: int, held_back: bool) -> None:
    """A request ends its stay at a replica; `held_back`: its blocks stay until they have been transferred."""
    q = request(m, i)
    replica, pool = m[seat + at.OF_REPLICA], m[seat + at.OF_POOL]
    unlink(m, m[seat + at.RUNNING_AT] + 2 * m[q + at.CLASS], i)
    m[seat + at.MEMBERS] -= 1
    m[pool + at.RUNNING] -= 1
    m[pool + at.ASSIGNED] -= 1
    m[replica + at.LOAD] -= 1
    m[replica + at.LOAD_TOKENS] -= m[q + at.ISL]
    if m[replica + at.ADMIT] == at.ADMIT_OUTPUT:
        m[pool + at.RESERVED] -= blocks_reserved(m, q, replica)
    if not held_back:
        give_back(m, q, pool, tokens, m[replica + at.BLOCK])
        if m[replica + at.PREFIX] == 1:
            leave_behind(m, q, pool)
