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
    take,
    tokens_held,
    unlink,
)  # fmt: skip

Ints = NDArray[np.int64]
Table = NDArray[np.int64]
Cube = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def output_to_come(q: Ints, replica: Ints) -> int:
    """Tokens that this replica will still add to the request's at.KV cache after the prompt."""
    return 0 if replica[at.ROLE] == at.PREFILLER else q[at.OSL] - q[at.GENERATED]


@compiled
def blocks_reserved(q: Ints, replica: Ints) -> int:
    return blocks_of(q[at.ISL] if replica[at.ROLE] == at.PREFILLER else q[at.ISL] + q[at.OSL], replica[at.BLOCK])


@compiled
def enter_decode(i: int, rq: Table, seat: Ints, pool: Ints, buckets: Ints, heap: Ints, keys: Ints, block: int) -> None:
    """A request whose cached tokens are at.KV and that has tokens to go starts to decode with the next step."""
    q = rq[i]
    clock = seat[at.CLOCK]
    q[at.STATE] = at.DECODE
    q[at.JOIN] = clock
    seat[at.SEQUENCES] += 1
    seat[at.SUM_KV] += q[at.KV]
    buckets[(q[at.KV] - clock) % block] += 1
    remaining = q[at.OSL] - q[at.GENERATED]
    pool[at.REMAIN_DECODE] += remaining
    heap_push(heap, keys, seat[at.HEAP_SIZE], rq, at.POS, i, clock + remaining)
    seat[at.HEAP_SIZE] += 1


@compiled
def leave_decode(i: int, rq: Table, seat: Ints, pool: Ints, buckets: Ints, heap: Ints, keys: Ints, block: int) -> None:
    q = rq[i]
    clock = seat[at.CLOCK]
    seat[at.SEQUENCES] -= 1
    seat[at.SUM_KV] -= q[at.KV] + clock - q[at.JOIN]
    buckets[(q[at.KV] - q[at.JOIN]) % block] -= 1
    pool[at.REMAIN_DECODE] -= q[at.JOIN] + q[at.OSL] - q[at.GENERATED] - clock
    heap_remove(heap, keys, seat[at.HEAP_SIZE], rq, at.POS, q[at.POS])
    seat[at.HEAP_SIZE] -= 1


@compiled
def leave_prefill(i: int, rq: Table, replica: Ints, seat: Ints, pool: Ints) -> None:
    q = rq[i]
    before, after = q[at.PPREV], q[at.PNEXT]
    if before == at.NONE:
        seat[at.QUEUE_HEAD] = after
    else:
        rq[before, at.PNEXT] = after
    if after == at.NONE:
        seat[at.QUEUE_TAIL] = before
    else:
        rq[after, at.PPREV] = before
    seat[at.PREFILLS] -= 1
    pool[at.REMAIN_PREFILL] -= output_to_come(q, replica)


@compiled
def preempt(
    i: int, rq: Table, replica: Ints, seat: Ints, pool: Ints, waiting: Table, running: Table, buckets: Ints,
    heap: Ints, keys: Ints, chain: Ints, cache: Table, seg: Table,
) -> None:  # fmt: skip
    """Back to the head of the queue; everything is computed again later, the tokens made so far as part of the prompt."""
    q = rq[i]
    block = replica[at.BLOCK]
    if q[at.STATE] == at.DECODE:
        leave_decode(i, rq, seat, pool, buckets, heap, keys, block)
        tokens = tokens_held(q, seat[at.CLOCK], True)
        q[at.GENERATED] += seat[at.CLOCK] - q[at.JOIN]
    else:
        leave_prefill(i, rq, replica, seat, pool)
        tokens = q[at.TARGET]
    give_back(q, pool, tokens, block, chain, cache, seg)
    if replica[at.ADMIT] == at.ADMIT_OUTPUT:
        pool[at.RESERVED] -= blocks_reserved(q, replica)
    unlink(rq, running[q[at.CLASS]], i)
    seat[at.MEMBERS] -= 1
    pool[at.RUNNING] -= 1
    q[at.TARGET] = q[at.ISL] + q[at.GENERATED]
    q[at.COMPUTED] = 0
    q[at.CHUNK] = 0
    q[at.PREEMPTED] += 1
    q[at.STATE] = at.WAITING
    prepend(rq, waiting[q[at.CLASS]], i)
    pool[at.QUEUED] += 1


@compiled
def blocks_in_step(seat: Ints, buckets: Ints, block: int, advance: int) -> int:
    """at.KV blocks that the decoding requests of a seat start when each advances by so many tokens."""
    count = 0
    for j in range(advance):
        count += buckets[(-(seat[at.CLOCK] + j)) % block]
    return count


@compiled
def room_to_decode(
    rq: Table, replica: Ints, rep_f: Floats, seat: Ints, ratio: Floats, pool: Ints, waiting: Table, running: Table,
    buckets: Ints, heap: Ints, keys: Ints, offsets: Ints, chains: Ints, cache: Table,
    seg: Table, step: Ints,
) -> None:  # fmt: skip
    """Blocks for the next token of every decoding request; the last admitted of the least important class gives way
    until they fit."""
    block = replica[at.BLOCK]
    rate = rep_f[at.ADVANCE]
    s = seat[at.STEPS]
    advance = 1
    if rate != 1.0:
        advance = int(np.floor((s + 1) * rate + 1e-9)) - int(np.floor(s * rate + 1e-9))
    need = blocks_in_step(seat, buckets, block, advance)
    while need > pool[at.FREE] + pool[at.CACHED]:
        victim = at.NONE
        for c in range(running.shape[0] - 1, -1, -1):
            if running[c, 1] != at.NONE:
                victim = running[c, 1]
                break
        preempt(
            victim, rq, replica, seat, pool, waiting, running, buckets, heap, keys,
            chains[offsets[victim] : offsets[victim + 1]], cache, seg,
        )  # fmt: skip
        ratio[0] = rep_f[at.RATIO_START]
        step[at.STOPPED] = 1
        need = blocks_in_step(seat, buckets, block, advance)
    if need > 0:
        take(pool, replica, need, cache, seg)
    step[at.MADE_ROOM] = 1
    seat[at.STEP_ADVANCE] = advance


@compiled
def continue_prompts(rq: Table, replica: Ints, seat: Ints, step: Ints) -> None:
    i = seat[at.QUEUE_HEAD]
    while i != at.NONE and step[at.LEFT] > 0:
        q = rq[i]
        n = min(q[at.TARGET] - q[at.COMPUTED], step[at.LEFT])
        if replica[at.THRESHOLD] > 0:
            n = min(n, replica[at.THRESHOLD])
        q[at.CHUNK] = n
        step[at.TOKENS] += n
        step[at.PROMPTS] += 1
        step[at.PAST] += q[at.COMPUTED]
        step[at.LEFT] -= n
        if q[at.COMPUTED] + n < q[at.TARGET]:
            step[at.PARTIAL] += 1
        i = q[at.PNEXT]


@compiled
def fits(q: Ints, replica: Ints, pool: Ints, need: int, found: Ints, ratio: float) -> bool:
    """Whether admission rules and at.KV memory let this request in; `need` blocks are new for it."""
    available = pool[at.FREE] + pool[at.CACHED] - found[3]
    if pool[at.RUNNING] > 0:
        available -= replica[at.WATERMARK]
    if need > available:
        return False
    if replica[at.ADMIT] == at.ADMIT_OUTPUT:
        return bool(pool[at.RESERVED] + blocks_reserved(q, replica) <= replica[at.BLOCKS])
    if replica[at.ADMIT] == at.ADMIT_RATIO:
        wanted = (
            q[at.TARGET]
            - found[1]
            + output_to_come(q, replica)
            + pool[at.REMAIN_PREFILL]
            + ratio * pool[at.REMAIN_DECODE]
        )
        return bool(pool[at.RUNNING] == 0 or wanted <= available * replica[at.BLOCK])
    return True


@compiled
def admit(
    now: float, rq: Table, rf: NDArray[np.float64], replica: Ints, seat: Ints, ratio: float, pool: Ints,
    waiting: Table, running: Table, buckets: Ints, heap: Ints, keys: Ints, offsets: Ints, chains: Ints, cache: Table,
    seg: Table, step: Ints, found: Ints, seat_index: int,
) -> None:  # fmt: skip
    """Waiting requests in order of class and arrival, until budget, places or memory end. Nobody overtakes."""
    block = replica[at.BLOCK]
    places = replica[at.MAX_SEQUENCES]
    if replica[at.LANES] > 1:  # a pipeline's slots share the requests evenly
        places = min(places, (pool[at.ASSIGNED] + replica[at.LANES] - 1) // replica[at.LANES])
    each = 1 + replica[at.DRAFT]
    while pool[at.QUEUED] > 0 and step[at.LEFT] > 0 and seat[at.MEMBERS] < places:
        i = at.NONE
        for c in range(waiting.shape[0]):
            if waiting[c, 0] != at.NONE:
                i = waiting[c, 0]
                break
        q = rq[i]
        chain = chains[offsets[i] : offsets[i + 1]]
        handed_over = q[at.COMPUTED] == q[at.TARGET]
        chunk = 0
        if handed_over:
            found[:] = 0
            ahead = seat[at.STEP_ADVANCE] if step[at.MADE_ROOM] == 1 else 0
            need = blocks_of(q[at.TARGET] + ahead, block)
        else:
            lookup(q, replica, chain, cache, seg, found)
            new = q[at.TARGET] - found[1]
            chunk = new
            if replica[at.CHUNKED] == 1:
                chunk = min(new, step[at.LEFT])
                if replica[at.THRESHOLD] > 0:
                    chunk = min(chunk, replica[at.THRESHOLD])
                if chunk < new and replica[at.MAX_PARTIAL] > 0 and step[at.PARTIAL] >= replica[at.MAX_PARTIAL]:
                    break
            elif new > step[at.LEFT] and (step[at.PROMPTS] > 0 or new <= replica[at.PREFILL_BUDGET]):
                break
            need = blocks_of(q[at.TARGET], block) - found[2]
        if not fits(q, replica, pool, need, found, ratio):
            break
        unlink(rq, waiting[q[at.CLASS]], i)
        pool[at.QUEUED] -= 1
        hold(q, pool, chain, found[0], cache, seg)
        take(pool, replica, need, cache, seg)
        append(rq, running[q[at.CLASS]], i)
        seat[at.MEMBERS] += 1
        pool[at.RUNNING] += 1
        q[at.SEAT] = seat_index
        if replica[at.ADMIT] == at.ADMIT_OUTPUT:
            pool[at.RESERVED] += blocks_reserved(q, replica)
        if rf[i, at.SCHEDULED] == at.FAR:
            rf[i, at.SCHEDULED] = now
        if handed_over:
            q[at.KV] = q[at.TARGET]
            if rf[i, at.FIRST] == at.FAR:
                rf[i, at.FIRST] = now
            enter_decode(i, rq, seat, pool, buckets, heap, keys, block)
            step[at.JOINED] += 1
            if replica[at.MIXED] == 1:
                step[at.LEFT] -= each
            continue
        if replica[at.VISIBLE_EARLY] == 1 and chain.size > found[0]:
            publish(q, chain, cache, seg)
        q[at.HIT] += found[1]
        q[at.COMPUTED] = found[1]
        q[at.CHUNK] = chunk
        q[at.STATE] = at.PREFILL
        q[at.PNEXT] = at.NONE
        q[at.PPREV] = seat[at.QUEUE_TAIL]
        if seat[at.QUEUE_TAIL] == at.NONE:
            seat[at.QUEUE_HEAD] = i
        else:
            rq[seat[at.QUEUE_TAIL], at.PNEXT] = i
        seat[at.QUEUE_TAIL] = i
        seat[at.PREFILLS] += 1
        pool[at.REMAIN_PREFILL] += output_to_come(q, replica)
        step[at.TOKENS] += chunk
        step[at.PROMPTS] += 1
        step[at.PAST] += found[1]
        step[at.LEFT] -= chunk
        if found[1] + chunk < q[at.TARGET]:
            step[at.PARTIAL] += 1


@compiled
def plan_step(
    now: float, rq: Table, rf: NDArray[np.float64], replica: Ints, rep_f: Floats, seat: Ints, ratio: Floats,
    pool: Ints, waiting: Table, running: Table, buckets: Ints, heap: Ints, keys: Ints, offsets: Ints, chains: Ints,
    cache: Table, seg: Table, step: Ints, found: Ints, seat_index: int,
) -> None:  # fmt: skip
    """Fill `step`: context tokens, prompts and their past; whether decodes take part (at.MADE_ROOM)."""
    step[:] = 0
    each = 1 + replica[at.DRAFT]
    if replica[at.MIXED] == 1:
        if seat[at.SEQUENCES] > 0:
            room_to_decode(
                rq, replica, rep_f, seat, ratio, pool, waiting, running, buckets, heap, keys, offsets, chains, cache,
                seg, step,
            )  # fmt: skip
        step[at.LEFT] = replica[at.BUDGET] - seat[at.SEQUENCES] * each
    else:
        step[at.LEFT] = replica[at.PREFILL_BUDGET]
    if seat[at.PREFILLS] > 0:
        continue_prompts(rq, replica, seat, step)
    if pool[at.QUEUED] > 0 and step[at.STOPPED] == 0:
        admit(
            now, rq, rf, replica, seat, ratio[0], pool, waiting, running, buckets, heap, keys, offsets, chains, cache,
            seg, step, found, seat_index,
        )  # fmt: skip
    if step[at.TOKENS] == 0 and seat[at.SEQUENCES] > 0 and step[at.MADE_ROOM] == 0:
        room_to_decode(
            rq, replica, rep_f, seat, ratio, pool, waiting, running, buckets, heap, keys, offsets, chains, cache,
            seg, step,
        )  # fmt: skip
