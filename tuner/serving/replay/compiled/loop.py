"""The event loop: arrivals, iteration starts and ends of all replicas in order of time."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.jit import compiled
from tuner.serving.replay.compiled.memory import publish, take
from tuner.serving.replay.compiled.routing import choose
from tuner.serving.replay.compiled.schedule import (
    enter_decode,
    leave_decode,
    leave_prefill,
    plan_step,
)  # fmt: skip
from tuner.serving.replay.compiled.steps import run_time, step_time
from tuner.serving.replay.compiled.traffic import enqueue, leave, receive, release_held

Ints = NDArray[np.int64]
Table = NDArray[np.int64]
Cube = NDArray[np.int64]
Floats = NDArray[np.float64]
FloatTable = NDArray[np.float64]


@compiled
def end_step(
    r: int, lane: int, now: float, rq: Table, rf: FloatTable, replicas: Table, rep_f: FloatTable, pools: Table,
    seats: Table, ratios: FloatTable, waiting: Cube, running: Cube, buckets: Table, heaps: Table, keys: Table,
    offsets: Ints, chains: Ints, owns: Ints, caches: Cube, segs: Cube, lane_at: Floats, lane_busy: Ints,
    decode_policy: int, decoders: Ints, turn: Ints, draws: FloatTable, groups: Ints,
) -> int:  # fmt: skip
    """Tokens come out of an iteration. Returns how many requests are done."""
    replica = replicas[r]
    block = replica[at.BLOCK]
    finished = 0
    for rank in range(replica[at.RANKS]):
        s = replica[at.SEAT0] + (lane - replica[at.LANE0]) * replica[at.RANKS] + rank
        p = replica[at.POOL0] + rank
        seat = seats[s]
        pool = pools[p]
        advance = seat[at.STEP_ADVANCE]
        if advance > 0:
            seat[at.CLOCK] += advance
            seat[at.SUM_KV] += advance * seat[at.SEQUENCES]
            pool[at.REMAIN_DECODE] -= advance * seat[at.SEQUENCES]
            replica[at.DECODE_TOKENS] += advance * seat[at.SEQUENCES]
            seat[at.STEP_ADVANCE] = 0
            while seat[at.HEAP_SIZE] > 0 and keys[s, 0] <= seat[at.CLOCK]:
                i = heaps[s, 0]
                tokens = rq[i, at.KV] + seat[at.CLOCK] - rq[i, at.JOIN]
                leave_decode(i, rq, seat, pool, buckets[s], heaps[s], keys[s], block)
                leave(
                    i, tokens, rq, replica, seat, pool, running[s], False, chains[offsets[i] : offsets[i + 1]],
                    owns[i], caches[p], segs[r],
                )  # fmt: skip
                rq[i, at.STATE] = at.FINISHED
                rf[i, at.DONE] = now
                finished += 1
        i = seat[at.QUEUE_HEAD]
        while i != at.NONE:
            q = rq[i]
            following = q[at.PNEXT]
            q[at.COMPUTED] += q[at.CHUNK]
            replica[at.CONTEXT_TOKENS] += q[at.CHUNK]
            q[at.CHUNK] = 0
            if q[at.COMPUTED] == q[at.TARGET]:
                leave_prefill(i, rq, replica, seat, pool)
                q[at.GENERATED] += 1
                chain = chains[offsets[i] : offsets[i + 1]]
                if replica[at.PREFIX] == 1 and replica[at.VISIBLE_EARLY] == 0 and chain.size > 0:
                    publish(q, chain, caches[p], segs[r])
                over = q[at.GENERATED] >= q[at.OSL]
                hand_over = replica[at.ROLE] == at.PREFILLER and not over
                if rf[i, at.FIRST] == at.FAR and not hand_over:
                    rf[i, at.FIRST] = now
                if over or hand_over:
                    leave(
                        i,
                        q[at.TARGET],
                        rq,
                        replica,
                        seat,
                        pool,
                        running[s],
                        hand_over,
                        chain,
                        owns[i],
                        caches[p],
                        segs[r],
                    )
                if over:
                    q[at.STATE] = at.FINISHED
                    rf[i, at.DONE] = now
                    finished += 1
                elif hand_over:
                    q[at.STATE] = at.TRANSFER
                    q[at.STAGE] = 1
                    link = max(rep_f[r, at.LINK_FREE], now) + q[at.ISL] * rep_f[r, at.TRANSFER_PER_TOKEN]
                    rep_f[r, at.LINK_FREE] = link
                    q[at.PNEXT] = at.NONE
                    if replica[at.HELD_TAIL] == at.NONE:
                        replica[at.HELD_HEAD] = i
                    else:
                        rq[replica[at.HELD_TAIL], at.PNEXT] = i
                    replica[at.HELD_TAIL] = i
                    d = choose(
                        decode_policy, decoders, turn, draws[i, 1], groups[i], q, chain, replicas, rep_f, caches, segs
                    )
                    q[at.DECODER] = d
                    enqueue(i, d, link + rep_f[r, at.TRANSFER_LATENCY], rq, rf, replicas, lane_at, lane_busy)
                else:
                    q[at.KV] = q[at.TARGET]
                    enter_decode(i, rq, seat, pool, buckets[s], heaps[s], keys[s], block)
            i = following
        if seat[at.MEMBERS] == 0:
            ratios[s, 0] = rep_f[r, at.RATIO_START]
    return int(finished)


@compiled
def sample(replica: Ints, rep_f: Floats, pools: Table, now: float, line: FloatTable, count: Ints) -> None:
    """A point of the timelines. When they are full every other point goes and the gap doubles."""
    used = 0
    running = 0
    queued = 0
    for p in range(replica[at.POOL0], replica[at.POOL0] + replica[at.RANKS]):
        used += replica[at.BLOCKS] - pools[p, at.FREE] - pools[p, at.CACHED]
        running += pools[p, at.RUNNING]
        queued += pools[p, at.QUEUED]
    n = count[0]
    if n == at.TIMELINE_POINTS:
        for k in range(n // 2):
            line[k] = line[2 * k]
        n //= 2
        rep_f[at.SAMPLE_GAP] = max(2.0 * rep_f[at.SAMPLE_GAP], (now - line[0, 0]) / n)
    line[n, 0] = now
    line[n, 1] = used / (replica[at.BLOCKS] * replica[at.RANKS])
    line[n, 2] = running
    line[n, 3] = queued
    count[0] = n + 1
    rep_f[at.SAMPLE_AT] = now + rep_f[at.SAMPLE_GAP]


@compiled
def mergeable(replica: Ints, rep_f: Floats, seat: Ints, pool: Ints, step: Ints, buckets: Ints, first_end: int) -> int:
    """Iterations that can only repeat this one: nobody finishes before the last, blocks suffice, nobody is let in."""
    if (
        replica[at.RANKS] > 1 or replica[at.LANES] > 1 or step[at.TOKENS] > 0 or step[at.STOPPED] == 1 or rep_f[at.ADVANCE] != 1.0
        or (replica[at.OVERLAP] == 1 and rep_f[at.HOST_STEP] + rep_f[at.HOST_SEQUENCE] > 0.0)
    ):  # fmt: skip
        return 1
    if pool[at.QUEUED] > 0 and replica[at.ADMIT] == at.ADMIT_RATIO and seat[at.MEMBERS] < replica[at.MAX_SEQUENCES]:
        return 1  # the share of outputs to keep room for shrinks as they are made
    most = first_end - seat[at.CLOCK]
    if most <= 1:
        return 1
    g = seat[at.SEQUENCES]
    block = replica[at.BLOCK]
    free = pool[at.FREE]
    if (most // block + 1) * g <= free:
        return int(most)
    # blocks of this iteration are taken already; iteration j > 0 starts one for each request in its bucket
    full = min(free // g, (most - 1) // block)  # whole rounds of the buckets
    m = 1 + full * block
    free -= full * g
    while m < most:
        need = buckets[(-(seat[at.CLOCK] + m)) % block]
        if need > free:
            break
        free -= need
        m += 1
    return int(m)


@compiled
def start_step(
    r: int, lane: int, now: float, horizon: float, rq: Table, rf: FloatTable, replicas: Table, rep_f: FloatTable,
    pools: Table, seats: Table, ratios: FloatTable, waiting: Cube, running: Cube, buckets: Table, heaps: Table,
    keys: Table, offsets: Ints, chains: Ints, caches: Cube, segs: Cube, buffer: Floats, tables: Table, step: Ints,
    found: Ints,
) -> float:  # fmt: skip
    """Put an iteration (or a run of identical ones) together; returns its end, or at.FAR where there is nothing to do."""
    replica = replicas[r]
    table = tables[replica[at.TABLE]]
    each = 1 + replica[at.DRAFT]
    length = -1.0
    any_context = False
    any_decode = False
    count = 1
    for rank in range(replica[at.RANKS]):
        s = replica[at.SEAT0] + (lane - replica[at.LANE0]) * replica[at.RANKS] + rank
        p = replica[at.POOL0] + rank
        seat = seats[s]
        pool = pools[p]
        if seat[at.MEMBERS] == 0 and pool[at.QUEUED] == 0:
            continue
        for _attempt in range(2):
            plan_step(
                now, rq, rf, replica, rep_f[r], seat, ratios[s], pool, waiting[p], running[s], buckets[s], heaps[s],
                keys[s], offsets, chains, caches[p], segs[r], step, found, s,
            )  # fmt: skip
            decodes = seat[at.SEQUENCES] if step[at.MADE_ROOM] == 1 else 0
            if step[at.TOKENS] > 0 or decodes > 0 or step[at.STOPPED] == 0:
                break
        if step[at.TOKENS] == 0 and decodes == 0:
            seat[at.STEP_ADVANCE] = 0
            continue
        host = rep_f[r, at.HOST_STEP] + rep_f[r, at.HOST_SEQUENCE] * (step[at.PROMPTS] + decodes)
        if decodes > 0:
            any_decode = True
            count = mergeable(replica, rep_f[r], seat, pool, step, buckets[s], keys[s, 0])
        else:
            seat[at.STEP_ADVANCE] = 0
        if step[at.TOKENS] > 0:
            any_context = True
        if count > 1:
            count, end = run_time(buffer, table, decodes, seat[at.SUM_KV], host, count, now, horizon)
            length = end - now
            if count > 1:
                block = replica[at.BLOCK]
                need = (count - 1) // block * decodes
                for j in range(1 + (count - 1) // block * block, count):
                    need += buckets[s, (-(seat[at.CLOCK] + j)) % block]
                take(pool, replica, need, caches[p], segs[r])
                seat[at.STEP_ADVANCE] = count
        else:
            time = step_time(
                buffer, table, step[at.TOKENS], step[at.PROMPTS], step[at.PAST], decodes, each, seat[at.SUM_KV]
            )  # fmt: skip
            time = max(time, host) if replica[at.OVERLAP] == 1 else time + host
            length = max(length, time)
        if decodes > 0:
            seat[at.STEPS] += count
            ratios[s, 0] = max(rep_f[r, at.RATIO_FLOOR], ratios[s, 0] - count * rep_f[r, at.RATIO_DECAY])
    if length < 0.0:
        return at.FAR
    replica[at.ITERATIONS] += count
    share = length / replica[at.LANES]
    if not any_context:
        rep_f[r, at.DECODE_TIME] += share
    elif any_decode:
        rep_f[r, at.MIXED_TIME] += share
    else:
        rep_f[r, at.PREFILL_TIME] += share
    rep_f[r, at.STAGE_FREE] = now + share
    return now + length


@compiled
def replay(
    issued: Floats, clients: int, rq: Table, rf: FloatTable, replicas: Table, rep_f: FloatTable, pools: Table,
    seats: Table, ratios: FloatTable, waiting: Cube, running: Cube, buckets: Table, heaps: Table, keys: Table,
    offsets: Ints, chains: Ints, owns: Ints, caches: Cube, segs: Cube, buffer: Floats, tables: Table,
    lanes: Ints, policies: Ints, front: Ints, decoders: Ints, draws: FloatTable, groups: Ints,
    lines: NDArray[np.float64], line_counts: Table,
) -> int:  # fmt: skip
    """Returns how many requests neither finished nor were refused: zero, or a scheduling rule is broken.

    `issued`: arrival times (open loop; sorted) where `clients` is 0, else the closed loop fills them in. `lanes`: the
    replica of each lane. Everything else: see `layout` and `pack`.
    """
    n = rq.shape[0]
    n_lanes = lanes.size
    lane_at = np.full(n_lanes, at.FAR)
    lane_busy = np.zeros(n_lanes, np.int64)
    seats_of = np.zeros(seats.shape[0], np.int64)
    for r in range(replicas.shape[0]):
        for s in range(replicas[r, at.LANES] * replicas[r, at.RANKS]):
            seats_of[replicas[r, at.SEAT0] + s] = replicas[r, at.POOL0] + s % replicas[r, at.RANKS]
    step = np.zeros(8, np.int64)
    found = np.zeros(4, np.int64)
    front_turn = np.zeros(1, np.int64)
    decode_turn = np.zeros(1, np.int64)
    split = decoders.size > 0
    coming = 0  # next request to be issued
    due = 0  # requests of the closed loop to be issued now
    over = 0
    clock = 0.0
    if clients > 0:
        due = min(clients, n)
    while over < n:
        lane = -1
        soonest = at.FAR
        for k in range(n_lanes):
            if lane_at[k] < soonest:
                soonest = lane_at[k]
                lane = k
        issue_at = clock
        issuing = due > 0
        if not issuing and clients == 0 and coming < n and issued[coming] <= soonest:
            issuing = True
            issue_at = issued[coming]
        if issuing:
            i = coming
            coming += 1
            if due > 0:
                due -= 1
                issued[i] = issue_at
            rf[i, at.ISSUED] = issue_at
            r = choose(
                policies[0], front, front_turn, draws[i, 0], groups[i], rq[i], chains[offsets[i] : offsets[i + 1]],
                replicas, rep_f, caches, segs,
            )  # fmt: skip
            rq[i, at.REPLICA] = r
            rq[i, at.STATE] = at.PENDING
            enqueue(i, r, issue_at + rep_f[r, at.REQUEST_TIME], rq, rf, replicas, lane_at, lane_busy)
            continue
        if lane < 0:
            break
        clock = soonest
        r = lanes[lane]
        replica = replicas[r]
        if lane_busy[lane] == 1:
            lane_busy[lane] = 0
            lane_at[lane] = clock  # the next iteration is looked at once this one's answers have been answered
            done = end_step(
                r, lane, clock, rq, rf, replicas, rep_f, pools, seats, ratios, waiting, running, buckets, heaps, keys,
                offsets, chains, owns, caches, segs, lane_at, lane_busy, policies[1], decoders, decode_turn, draws,
                groups,
            )  # fmt: skip
            for k in range(replica[at.LANE0], replica[at.LANE0] + replica[at.LANES]):
                if lane_busy[k] == 0 and lane_at[k] > clock:
                    lane_at[k] = clock
            over += done
            if clients > 0 and done > 0:
                due = min(done, n - coming)
                if due > 0:
                    continue
        if replica[at.LANES] > 1 and rep_f[r, at.STAGE_FREE] > clock:
            lane_at[lane] = rep_f[r, at.STAGE_FREE]
            continue
        release_held(r, clock, rq, rf, replicas, pools, seats_of, offsets, chains, caches, segs)
        refused = receive(r, clock, rq, rf, replicas, pools, waiting, seats_of, offsets, chains, caches, segs)
        if refused > 0:
            over += refused
            if clients > 0:
                due = min(refused, n - coming)
                if due > 0:
                    continue
        horizon = at.FAR
        if replica[at.PENDING_HEAD] != at.NONE:
            horizon = rf[replica[at.PENDING_HEAD], at.ENTRY]
        if clients == 0 and coming < n and not (split and replica[at.ROLE] == at.DECODER_ROLE):
            horizon = min(horizon, issued[coming] + rep_f[r, at.REQUEST_TIME])
        if split or clients > 0:
            for k in range(n_lanes):
                if k != lane:
                    horizon = min(horizon, lane_at[k])
            if split and clients == 0 and coming < n:
                horizon = min(horizon, issued[coming])
        lane_at[lane] = at.FAR
        end = start_step(
            r, lane, clock, horizon, rq, rf, replicas, rep_f, pools, seats, ratios, waiting, running, buckets, heaps,
            keys, offsets, chains, caches, segs, buffer, tables, step, found,
        )  # fmt: skip
        if end < at.FAR:
            lane_busy[lane] = 1
            lane_at[lane] = end
        else:  # idle until somebody comes, or until blocks that are being transferred become free
            if replica[at.PENDING_HEAD] != at.NONE:
                lane_at[lane] = rf[replica[at.PENDING_HEAD], at.ENTRY]
            if replica[at.HELD_HEAD] != at.NONE:
                lane_at[lane] = min(lane_at[lane], rf[replica[at.HELD_HEAD], at.ENTRY])
        if clock >= rep_f[r, at.SAMPLE_AT]:
            sample(replica, rep_f[r], pools, clock, lines[r], line_counts[r])
    return int(n - over)
