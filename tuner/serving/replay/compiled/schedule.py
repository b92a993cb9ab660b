"""What one seat runs in its next iteration: decode room, prompt chunks, admission, preemption."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.jit import compiled
from tuner.serving.replay.compiled.memory import (
    append,
    blocks_of,
    give_back,
    heap_push,
    heap_remove,
    hold,
    lookup,
    prepend,
    publish,
    request,
    take,
    times,
    unlink,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def output_to_come(m: Ints, q: int, replica: int) -> int:
    """Tokens that this replica will still add to the request's KV cache after the prompt."""
    if m[replica + at.ROLE] == at.PREFILLER:
        return 0
    return int(m[q + at.OSL] - m[q + at.GENERATED])


@compiled
def blocks_reserved(m: Ints, q: int, replica: int) -> int:
    """KV blocks of the request when it leaves this replica."""
    output = 0 if m[replica + at.ROLE] == at.PREFILLER else m[q + at.OSL]
    return blocks_of(m[q + at.ISL] + output, m[replica + at.BLOCK])


@compiled
def enter_decode(m: Ints, i: int, seat: int, block: int) -> None:
    """A request whose cached tokens are KV and that has tokens to go decodes from the next step on."""
    q = request(m, i)
    pool = m[seat + at.OF_POOL]
    clock = m[seat + at.CLOCK]
    m[q + at.STATE] = at.DECODE
    m[q + at.JOIN] = clock
    m[seat + at.SEQUENCES] += 1
    m[seat + at.SUM_KV] += m[q + at.KV]
    m[m[seat + at.BUCKETS_AT] + (m[q + at.KV] - clock) % block] += 1
    remaining = m[q + at.OSL] - m[q + at.GENERATED]
    m[pool + at.REMAIN_DECODE] += remaining
    heap_push(m, m[seat + at.HEAP_AT], m[seat + at.HEAP_SIZE], ((clock + remaining) << at.HEAP_SHIFT) | i)
    m[seat + at.HEAP_SIZE] += 1


@compiled
def leave_decode(m: Ints, q: int, seat: int, block: int) -> None:
    pool = m[seat + at.OF_POOL]
    clock = m[seat + at.CLOCK]
    m[seat + at.SEQUENCES] -= 1
    m[seat + at.SUM_KV] -= m[q + at.KV] + clock - m[q + at.JOIN]
    m[m[seat + at.BUCKETS_AT] + (m[q + at.KV] - m[q + at.JOIN]) % block] -= 1
    m[pool + at.REMAIN_DECODE] -= m[q + at.JOIN] + m[q + at.OSL] - m[q + at.GENERATED] - clock
    heap_remove(m, m[seat + at.HEAP_AT], m[seat + at.HEAP_SIZE], m[q + at.POS])
    m[seat + at.HEAP_SIZE] -= 1


@compiled
def leave_prefill(m: Ints, q: int, seat: int) -> None:
    before, after = m[q + at.PPREV], m[q + at.PNEXT]
    if before == at.NONE:
        m[seat + at.QUEUE_HEAD] = after
    else:
        m[request(m, before) + at.PNEXT] = after
    if after == at.NONE:
        m[seat + at.QUEUE_TAIL] = before
    else:
        m[request(m, after) + at.PPREV] = before
    m[seat + at.PREFILLS] -= 1
    m[m[seat + at.OF_POOL] + at.REMAIN_PREFILL] -= output_to_come(m, q, m[seat + at.OF_REPLICA])


@compiled
def enter_prefill(m: Ints, i: int, seat: int, chunk: int) -> None:
    q = request(m, i)
    m[q + at.COMPUTED] = m[at.FOUND_TOKENS]
    m[q + at.CHUNK] = chunk
    m[q + at.STATE] = at.PREFILL
    m[q + at.PNEXT] = at.NONE
    m[q + at.PPREV] = m[seat + at.QUEUE_TAIL]
    if m[seat + at.QUEUE_TAIL] == at.NONE:
        m[seat + at.QUEUE_HEAD] = i
    else:
        m[request(m, m[seat + at.QUEUE_TAIL]) + at.PNEXT] = i
    m[seat + at.QUEUE_TAIL] = i
    m[seat + at.PREFILLS] += 1
    m[m[seat + at.OF_POOL] + at.REMAIN_PREFILL] += output_to_come(m, q, m[seat + at.OF_REPLICA])
    count_chunk(m, q, chunk)


@compiled
def count_chunk(m: Ints, q: int, chunk: int) -> None:
    """Add a prompt's chunk to the step."""
    m[at.TOKENS] += chunk
    m[at.PROMPTS] += 1
    m[at.PAST] += m[q + at.COMPUTED]
    m[at.LEFT] -= chunk
    if m[q + at.COMPUTED] + chunk < m[q + at.TARGET]:
        m[at.PARTIAL] += 1


@compiled
def preempt(m: Ints, i: int, seat: int) -> None:
    """Back to the head of the queue; everything is computed again later, the tokens made so far as part of the prompt."""
    q = request(m, i)
    replica, pool = m[seat + at.OF_REPLICA], m[seat + at.OF_POOL]
    block = m[replica + at.BLOCK]
    if m[q + at.STATE] == at.DECODE:
        leave_decode(m, q, seat, block)
        made = m[seat + at.CLOCK] - m[q + at.JOIN]
        tokens = m[q + at.KV] + made
        m[q + at.GENERATED] += made
    else:
        leave_prefill(m, q, seat)
        tokens = m[q + at.TARGET]
    give_back(m, q, pool, tokens, block)
    if m[replica + at.ADMIT] == at.ADMIT_OUTPUT:
        m[pool + at.RESERVED] -= blocks_reserved(m, q, replica)
    unlink(m, m[seat + at.RUNNING_AT] + 2 * m[q + at.CLASS], i)
    m[seat + at.MEMBERS] -= 1
    m[pool + at.RUNNING] -= 1
    m[q + at.TARGET] = m[q + at.ISL] + m[q + at.GENERATED]
    m[q + at.COMPUTED] = 0
    m[q + at.CHUNK] = 0
    m[q + at.PREEMPTED] += 1
    m[q + at.STATE] = at.WAITING
    prepend(m, m[pool + at.WAITING_AT] + 2 * m[q + at.CLASS], i)
    m[pool + at.QUEUED] += 1


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
