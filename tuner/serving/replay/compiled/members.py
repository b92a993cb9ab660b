"""A seat's members: into and out of the prefill queue and the decode batch, and back to the queue when preempted."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.jit import compiled
from tuner.serving.replay.compiled.memory import blocks_of, give_back, heap_push, heap_remove, prepend, request, unlink

Ints = NDArray[np.int64]


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
