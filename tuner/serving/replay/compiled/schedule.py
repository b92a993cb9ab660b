"""What one seat runs in its next iteration: decode room, prompt chunks, admission."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.jit import compiled
from tuner.serving.replay.compiled.members import (
    blocks_reserved,
    count_chunk,
    enter_decode,
    enter_prefill,
    output_to_come,
    preempt,
)
from tuner.serving.replay.compiled.memory import append, blocks_of, hold, lookup, publish, request, take, times, unlink

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def blocks_in_step(m: Ints, seat: int, block: int, advance: int) -> int:
    """KV blocks that the decoding requests of a seat start when each advances by so many tokens."""
    count = 0
    for j in range(advance):
        count += m[m[seat + at.BUCKETS_AT] + (-(m[seat + at.CLOCK] + j)) % block]
    return count


@compiled
def room_to_decode(m: Ints, f: Floats, seat: int) -> None:
    """Blocks for the next token of every decoding request; the last admitted of the least important class gives way
    until they fit."""
    replica, pool = m[seat + at.OF_REPLICA], m[seat + at.OF_POOL]
    rates = m[replica + at.RATES_AT]
    block = m[replica + at.BLOCK]
    rate = f[rates + at.ADVANCE]
    s = m[seat + at.STEPS]
    advance = 1
    if rate != 1.0:
        advance = int(np.floor((s + 1) * rate + 1e-9)) - int(np.floor(s * rate + 1e-9))
    need = blocks_in_step(m, seat, block, advance)
    while need > m[pool + at.FREE] + m[pool + at.CACHED]:
        victim = at.NONE
        for c in range(m[at.N_CLASSES] - 1, -1, -1):
            victim = m[m[seat + at.RUNNING_AT] + 2 * c + 1]
            if victim != at.NONE:
                break
        preempt(m, victim, seat)
        f[m[seat + at.RATIO_AT]] = f[rates + at.RATIO_START]
        m[at.STOPPED] = 1
        need = blocks_in_step(m, seat, block, advance)
    if need > 0:
        take(m, pool, replica, need)
    m[at.MADE_ROOM] = 1
    m[seat + at.STEP_ADVANCE] = advance


@compiled
def continue_prompts(m: Ints, seat: int) -> None:
    replica = m[seat + at.OF_REPLICA]
    i = m[seat + at.QUEUE_HEAD]
    while i != at.NONE and m[at.LEFT] > 0:
        q = request(m, i)
        n = min(m[q + at.TARGET] - m[q + at.COMPUTED], m[at.LEFT])
        if m[replica + at.THRESHOLD] > 0:
            n = min(n, m[replica + at.THRESHOLD])
        m[q + at.CHUNK] = n
        count_chunk(m, q, n)
        i = m[q + at.PNEXT]


@compiled
def fits(m: Ints, f: Floats, q: int, seat: int, need: int) -> bool:
    """Whether admission rules and KV memory let this request in; `need` blocks are new for it."""
    replica, pool = m[seat + at.OF_REPLICA], m[seat + at.OF_POOL]
    available = m[pool + at.FREE] + m[pool + at.CACHED] - m[at.FOUND_UNUSED]
    if m[pool + at.RUNNING] > 0:
        available -= m[replica + at.WATERMARK]
    if need > available:
        return False
    if m[replica + at.ADMIT] == at.ADMIT_OUTPUT:
        return bool(m[pool + at.RESERVED] + blocks_reserved(m, q, replica) <= m[replica + at.BLOCKS])
    if m[replica + at.ADMIT] == at.ADMIT_RATIO and m[pool + at.RUNNING] > 0:
        wanted = m[q + at.TARGET] - m[at.FOUND_TOKENS] + output_to_come(m, q, replica) + m[pool + at.REMAIN_PREFILL]
        share = f[m[seat + at.RATIO_AT]] * m[pool + at.REMAIN_DECODE]
        return bool(wanted + share <= available * m[replica + at.BLOCK])
    return True


@compiled
def first_waiting(m: Ints, pool: int) -> int:
    for c in range(m[at.N_CLASSES]):
        if m[m[pool + at.WAITING_AT] + 2 * c] != at.NONE:
            return int(m[m[pool + at.WAITING_AT] + 2 * c])
    return at.NONE


@compiled
def chunk_of(m: Ints, new: int, replica: int) -> int:
    """Tokens of a new prompt that this step may take; 0: none."""
    if m[replica + at.CHUNKED] == 0:
        # a prompt that preemption has made longer than any budget goes alone
        alone = m[at.PROMPTS] == 0 and new > m[replica + at.PREFILL_BUDGET]
        return new if new <= m[at.LEFT] or alone else 0
    chunk = min(new, m[at.LEFT])
    if m[replica + at.THRESHOLD] > 0:
        chunk = min(chunk, m[replica + at.THRESHOLD])
    if chunk < new and m[replica + at.MAX_PARTIAL] > 0 and m[at.PARTIAL] >= m[replica + at.MAX_PARTIAL]:
        return 0
    return int(chunk)


@compiled
def admit(m: Ints, f: Floats, seat: int, now: float) -> None:
    """Waiting requests in order of class and arrival, until budget, places or memory end. Nobody overtakes."""
    replica, pool = m[seat + at.OF_REPLICA], m[seat + at.OF_POOL]
    block = m[replica + at.BLOCK]
    places = m[replica + at.MAX_SEQUENCES]
    if m[replica + at.LANES] > 1:  # a pipeline's slots share the requests evenly
        places = min(places, (m[pool + at.ASSIGNED] + m[replica + at.LANES] - 1) // m[replica + at.LANES])
    while m[pool + at.QUEUED] > 0 and m[at.LEFT] > 0 and m[seat + at.MEMBERS] < places:
        i = first_waiting(m, pool)
        q = request(m, i)
        handed_over = m[q + at.COMPUTED] == m[q + at.TARGET]
        chunk = 0
        if handed_over:
            m[at.FOUND_SEGMENTS] = 0
            m[at.FOUND_TOKENS] = 0
            m[at.FOUND_BLOCKS] = 0
            m[at.FOUND_UNUSED] = 0
            ahead = m[seat + at.STEP_ADVANCE] if m[at.MADE_ROOM] == 1 else 0
            need = blocks_of(m[q + at.TARGET] + ahead, block)
        else:
            lookup(m, q, replica, pool)
            chunk = chunk_of(m, m[q + at.TARGET] - m[at.FOUND_TOKENS], replica)
            if chunk == 0:
                break
            need = blocks_of(m[q + at.TARGET], block) - m[at.FOUND_BLOCKS]
        if not fits(m, f, q, seat, need):
            break
        unlink(m, m[pool + at.WAITING_AT] + 2 * m[q + at.CLASS], i)
        m[pool + at.QUEUED] -= 1
        hold(m, q, pool, m[at.FOUND_SEGMENTS])
        take(m, pool, replica, need)
        append(m, m[seat + at.RUNNING_AT] + 2 * m[q + at.CLASS], i)
        m[seat + at.MEMBERS] += 1
        m[pool + at.RUNNING] += 1
        m[q + at.SEAT] = seat
        if m[replica + at.ADMIT] == at.ADMIT_OUTPUT:
            m[pool + at.RESERVED] += blocks_reserved(m, q, replica)
        when = times(m, i)
        if f[when + at.SCHEDULED] == at.FAR:
            f[when + at.SCHEDULED] = now
        if handed_over:
            m[q + at.KV] = m[q + at.TARGET]
            if f[when + at.FIRST] == at.FAR:
                f[when + at.FIRST] = now  # the decode replica passes the first token on
            enter_decode(m, i, seat, block)
            if m[replica + at.MIXED] == 1:
                m[at.LEFT] -= m[replica + at.EACH]
        else:
            if m[replica + at.VISIBLE_EARLY] == 1:
                publish(m, q, pool)
            m[q + at.HIT] += m[at.FOUND_TOKENS]
            enter_prefill(m, i, seat, chunk)


@compiled
def plan_step(m: Ints, f: Floats, seat: int, now: float) -> None:
    """Fill the step's totals: context tokens, prompts and their past; whether decodes take part (MADE_ROOM)."""
    replica, pool = m[seat + at.OF_REPLICA], m[seat + at.OF_POOL]
    m[at.TOKENS] = 0
    m[at.PROMPTS] = 0
    m[at.PAST] = 0
    m[at.PARTIAL] = 0
    m[at.STOPPED] = 0
    m[at.MADE_ROOM] = 0
    if m[replica + at.MIXED] == 1:
        if m[seat + at.SEQUENCES] > 0:
            room_to_decode(m, f, seat)
        m[at.LEFT] = m[replica + at.BUDGET] - m[seat + at.SEQUENCES] * m[replica + at.EACH]
    else:
        m[at.LEFT] = m[replica + at.PREFILL_BUDGET]
    if m[seat + at.PREFILLS] > 0:
        continue_prompts(m, seat)
    if m[pool + at.QUEUED] > 0 and m[at.STOPPED] == 0:
        admit(m, f, seat, now)
    if m[at.TOKENS] == 0 and m[seat + at.SEQUENCES] > 0 and m[at.MADE_ROOM] == 0:
        room_to_decode(m, f, seat)
