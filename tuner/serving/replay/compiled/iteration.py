"""Start and end of one iteration of a replica's lane: all of its ranks in lock-step."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.jit import compiled
from tuner.serving.replay.compiled.members import enter_decode, leave_decode, leave_prefill
from tuner.serving.replay.compiled.memory import publish, request, take, times
from tuner.serving.replay.compiled.schedule import plan_step
from tuner.serving.replay.compiled.steps import run_time, step_time
from tuner.serving.replay.compiled.traffic import choose, enqueue, leave

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def seat_of(m: Ints, replica: int, lane: int, rank: int) -> int:
    return int(
        m[replica + at.SEATS_AT] + ((lane - m[replica + at.LANE0]) * m[replica + at.RANKS] + rank) * at.SEAT_INTS
    )


@compiled
def hand_over(m: Ints, f: Floats, i: int, replica: int, now: float) -> None:
    """A computed prompt goes over the link, one at a time, to a decode replica."""
    q = request(m, i)
    rates = m[replica + at.RATES_AT]
    m[q + at.STATE] = at.TRANSFER
    end = max(f[rates + at.LINK_FREE], now) + m[q + at.ISL] * f[rates + at.TRANSFER_PER_TOKEN]
    f[rates + at.LINK_FREE] = end
    m[q + at.PNEXT] = at.NONE
    if m[replica + at.HELD_TAIL] == at.NONE:
        m[replica + at.HELD_HEAD] = i
    else:
        m[request(m, m[replica + at.HELD_TAIL]) + at.PNEXT] = i
    m[replica + at.HELD_TAIL] = i
    decoder = choose(m, f, i, True)
    m[q + at.DECODER] = decoder
    enqueue(m, f, i, decoder, end + f[rates + at.TRANSFER_LATENCY])


@compiled
def finish_decodes(m: Ints, f: Floats, seat: int, now: float) -> int:
    """Tokens of the decoding requests come out. Returns how many requests are done."""
    replica = m[seat + at.OF_REPLICA]
    advance = m[seat + at.STEP_ADVANCE]
    made = advance * m[seat + at.SEQUENCES]
    m[seat + at.CLOCK] += advance
    m[seat + at.SUM_KV] += made
    m[m[seat + at.OF_POOL] + at.REMAIN_DECODE] -= made
    m[replica + at.DECODE_TOKENS] += made
    m[seat + at.STEP_ADVANCE] = 0
    heap = m[seat + at.HEAP_AT]
    finished = 0
    while m[seat + at.HEAP_SIZE] > 0 and m[heap] >> at.HEAP_SHIFT <= m[seat + at.CLOCK]:
        i = m[heap] & at.HEAP_REQUEST
        q = request(m, i)
        leave_decode(m, q, seat, m[replica + at.BLOCK])
        leave(m, i, seat, m[q + at.KV] + m[seat + at.CLOCK] - m[q + at.JOIN], False)
        m[q + at.STATE] = at.FINISHED
        f[times(m, i) + at.DONE] = now
        finished += 1
    return finished


@compiled
def finish_prompts(m: Ints, f: Floats, seat: int, now: float) -> int:
    """Chunks are computed; a prompt's last one gives a token. Returns how many requests are done."""
    replica = m[seat + at.OF_REPLICA]
    finished = 0
    i = m[seat + at.QUEUE_HEAD]
    while i != at.NONE:
        q = request(m, i)
        following = m[q + at.PNEXT]
        m[q + at.COMPUTED] += m[q + at.CHUNK]
        m[replica + at.CONTEXT_TOKENS] += m[q + at.CHUNK]
        m[q + at.CHUNK] = 0
        if m[q + at.COMPUTED] == m[q + at.TARGET]:
            leave_prefill(m, q, seat)
            m[q + at.GENERATED] += 1
            if m[replica + at.PREFIX] == 1 and m[replica + at.VISIBLE_EARLY] == 0:
                publish(m, q, m[seat + at.OF_POOL])
            over = m[q + at.GENERATED] >= m[q + at.OSL]
            handed_over = m[replica + at.ROLE] == at.PREFILLER and not over
            when = times(m, i)
            if f[when + at.FIRST] == at.FAR and not handed_over:
                f[when + at.FIRST] = now
            if over:
                leave(m, i, seat, m[q + at.TARGET], False)
                m[q + at.STATE] = at.FINISHED
                f[when + at.DONE] = now
                finished += 1
            elif handed_over:
                leave(m, i, seat, m[q + at.TARGET], True)
                hand_over(m, f, i, replica, now)
            else:
                m[q + at.KV] = m[q + at.TARGET]
                enter_decode(m, i, seat, m[replica + at.BLOCK])
        i = following
    return finished


@compiled
def end_step(m: Ints, f: Floats, replica: int, lane: int, now: float) -> int:
    """Returns how many requests are done."""
    finished = 0
    for rank in range(m[replica + at.RANKS]):
        seat = seat_of(m, replica, lane, rank)
        if m[seat + at.STEP_ADVANCE] > 0:
            finished += finish_decodes(m, f, seat, now)
        if m[seat + at.PREFILLS] > 0:
            finished += finish_prompts(m, f, seat, now)
        if m[seat + at.MEMBERS] == 0:
            f[m[seat + at.RATIO_AT]] = f[m[replica + at.RATES_AT] + at.RATIO_START]
    return finished


@compiled
def mergeable(m: Ints, f: Floats, replica: int, seat: int) -> int:
    """Iterations that can only repeat this one: nobody finishes before the last, blocks suffice, nobody is let in."""
    rates = m[replica + at.RATES_AT]
    if m[replica + at.RANKS] > 1 or m[replica + at.LANES] > 1 or m[at.TOKENS] > 0 or m[at.STOPPED] == 1:
        return 1
    if f[rates + at.ADVANCE] != 1.0:
        return 1
    if m[replica + at.OVERLAP] == 1 and f[rates + at.HOST_STEP] + f[rates + at.HOST_SEQUENCE] > 0.0:
        return 1
    pool = m[seat + at.OF_POOL]
    if m[pool + at.QUEUED] > 0 and m[replica + at.ADMIT] == at.ADMIT_RATIO:
        return 1  # the share of outputs to keep room for shrinks as they are made
    most = (m[m[seat + at.HEAP_AT]] >> at.HEAP_SHIFT) - m[seat + at.CLOCK]
    if m[replica + at.RECEIVE_EVERY] > 1:
        most = min(most, m[replica + at.RECEIVE_EVERY] - m[replica + at.SINCE_RECEIVE])
    g = m[seat + at.SEQUENCES]
    block = m[replica + at.BLOCK]
    free = m[pool + at.FREE]
    if most <= 1 or (most // block + 1) * g <= free:
        return int(most)
    # blocks of this iteration are taken already; iteration j > 0 starts one for each request in its bucket
    full = min(free // g, (most - 1) // block)  # whole rounds of the buckets
    count = 1 + full * block
    free -= full * g
    while count < most:
        need = m[m[seat + at.BUCKETS_AT] + (-(m[seat + at.CLOCK] + count)) % block]
        if need > free:
            break
        free -= need
        count += 1
    return int(count)


@compiled
def blocks_of_run(m: Ints, seat: int, g: int, block: int, count: int) -> int:
    """KV blocks that iterations 1 to count - 1 of a run start (those of iteration 0 are taken)."""
    rounds = (count - 1) // block
    need = rounds * g
    for j in range(1 + rounds * block, count):
        need += m[m[seat + at.BUCKETS_AT] + (-(m[seat + at.CLOCK] + j)) % block]
    return int(need)


@compiled
def start_step(m: Ints, f: Floats, replica: int, lane: int, now: float, horizon: float) -> float:
    """Put an iteration (or a run of identical ones) together; returns its end, or FAR where there is nothing to do."""
    rates = m[replica + at.RATES_AT]
    table = m[replica + at.TABLE_AT]
    length = -1.0
    any_context = False
    any_decode = False
    count = 1
    last_start = now
    for rank in range(m[replica + at.RANKS]):
        seat = seat_of(m, replica, lane, rank)
        pool = m[seat + at.OF_POOL]
        if m[seat + at.MEMBERS] == 0 and m[pool + at.QUEUED] == 0:
            continue
        plan_step(m, f, seat, now)
        decodes = m[seat + at.SEQUENCES] if m[at.MADE_ROOM] == 1 else 0
        if m[at.TOKENS] == 0 and decodes == 0 and m[at.STOPPED] == 1:  # everybody was preempted: let the first in again
            plan_step(m, f, seat, now)
            decodes = m[seat + at.SEQUENCES] if m[at.MADE_ROOM] == 1 else 0
        if decodes == 0:
            m[seat + at.STEP_ADVANCE] = 0
            if m[at.TOKENS] == 0:
                continue
        host = f[rates + at.HOST_STEP] + f[rates + at.HOST_SEQUENCE] * (m[at.PROMPTS] + decodes)
        if decodes > 0:
            any_decode = True
            count = mergeable(m, f, replica, seat)
        if m[at.TOKENS] > 0:
            any_context = True
        if count > 1:
            count, end = run_time(m, f, table, decodes, m[seat + at.SUM_KV], host, count, now, horizon)
            length = end - now
            cached = m[seat + at.SUM_KV] + decodes * (count - 1)
            last_start = end - host - step_time(m, f, table, 0, 0, 0, decodes, m[replica + at.EACH], cached)
            take(m, pool, replica, blocks_of_run(m, seat, decodes, m[replica + at.BLOCK], count))
            m[seat + at.STEP_ADVANCE] = count
        else:
            time = step_time(
                m, f, table, m[at.TOKENS], m[at.PROMPTS], m[at.PAST], decodes, m[replica + at.EACH], m[seat + at.SUM_KV]
            )
            length = max(length, max(time, host) if m[replica + at.OVERLAP] == 1 else time + host)
        if decodes > 0:
            m[seat + at.STEPS] += count
            ratio = f[m[seat + at.RATIO_AT]] - count * f[rates + at.RATIO_DECAY]
            f[m[seat + at.RATIO_AT]] = max(f[rates + at.RATIO_FLOOR], ratio)
    if length < 0.0:
        return at.FAR
    m[replica + at.ITERATIONS] += count
    m[replica + at.SINCE_RECEIVE] += m[replica + at.RECEIVE_EVERY] if any_context else count
    f[rates + at.LAST_START] = last_start if count > 1 else now
    share = length / m[replica + at.LANES]
    if not any_context:
        f[rates + at.DECODE_TIME] += share
    elif any_decode:
        f[rates + at.MIXED_TIME] += share
    else:
        f[rates + at.PREFILL_TIME] += share
    f[rates + at.STAGE_FREE] = now + share
    return float(now + length)


@compiled
def sample(m: Ints, f: Floats, replica: int, now: float) -> None:
    """A point of the timelines. When they are full every other point goes and the gap doubles."""
    rates = m[replica + at.RATES_AT]
    used = 0
    running = 0
    queued = 0
    for rank in range(m[replica + at.RANKS]):
        pool = m[replica + at.POOLS_AT] + rank * at.POOL_INTS
        used += m[replica + at.BLOCKS] - m[pool + at.FREE] - m[pool + at.CACHED]
        running += m[pool + at.RUNNING]
        queued += m[pool + at.QUEUED]
    n = m[replica + at.LINE_N]
    line = m[replica + at.LINE_AT]
    if n == at.TIMELINE_POINTS:
        n //= 2
        for k in range(n):
            for c in range(at.TIMELINE_COLUMNS):
                f[line + k * at.TIMELINE_COLUMNS + c] = f[line + 2 * k * at.TIMELINE_COLUMNS + c]
        f[rates + at.SAMPLE_GAP] = max(2.0 * f[rates + at.SAMPLE_GAP], (now - f[line]) / n)
    point = line + n * at.TIMELINE_COLUMNS
    f[point] = now
    f[point + 1] = used / (m[replica + at.BLOCKS] * m[replica + at.RANKS])
    f[point + 2] = running
    f[point + 3] = queued
    m[replica + at.LINE_N] = n + 1
    f[rates + at.SAMPLE_AT] = now + f[rates + at.SAMPLE_GAP]
