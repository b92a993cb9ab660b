"""The event loop: arrivals, iteration starts and ends of all replicas in order of time."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.iteration import end_step, sample, start_step
from tuner.serving.replay.compiled.jit import compiled, entry
from tuner.serving.replay.compiled.memory import request, times
from tuner.serving.replay.compiled.traffic import choose, enqueue, receive, release_held, seen_until, wake

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def issue(m: Ints, f: Floats, i: int, now: float) -> None:
    """A client sends request i. The replica's front-end reads prompts one after the other."""
    f[times(m, i) + at.ISSUED] = now
    replica = choose(m, f, i, False)
    q = request(m, i)
    m[q + at.REPLICA] = replica
    m[q + at.STATE] = at.PENDING
    rates = m[replica + at.RATES_AT]
    read = max(f[rates + at.ENTRY_FREE], now) + m[q + at.ISL] * f[rates + at.ENTRY_PER_TOKEN]
    f[rates + at.ENTRY_FREE] = read
    enqueue(m, f, i, replica, read + f[rates + at.REQUEST_TIME])


@compiled
def horizon_of(m: Ints, f: Floats, replica: int, lane: int, coming: float) -> float:
    """No request reaches this replica before this time, other than those it has. `coming`: next open-loop arrival."""
    split = m[at.DECODERS_N] > 0
    horizon = at.FAR
    if m[replica + at.PENDING_HEAD] != at.NONE:
        horizon = f[times(m, m[replica + at.PENDING_HEAD]) + at.ENTRY]
    if m[at.CLIENTS] == 0:
        horizon = min(horizon, coming)
    if split or m[at.CLIENTS] > 0:
        for k in range(m[at.N_LANES]):
            if k != lane:
                horizon = min(horizon, f[m[at.LANE_END_AT] + k])
    return float(horizon)


@entry
def replay(m: Ints, f: Floats) -> int:
    """Returns how many requests neither finished nor were refused: zero, or a scheduling rule is broken. FOREIGN:
    the arenas were laid out for other code (nothing below checks an index)."""
    if m.size < at.HEADER or m[at.SIGN_AT] != at.SIGN or m[at.INTS] != m.size or m[at.FLOATS] != f.size:
        return at.FOREIGN
    n = m[at.N_REQUESTS]
    clients = m[at.CLIENTS]
    lane_end = m[at.LANE_END_AT]
    coming = 0  # next request to be issued
    due = min(clients, n)  # requests of the closed loop to be issued now
    over = 0
    clock = 0.0
    while over < n:
        while due > 0:
            issue(m, f, coming, clock)
            coming += 1
            due -= 1
        lane = 0
        soonest = f[lane_end]
        for k in range(1, m[at.N_LANES]):
            if f[lane_end + k] < soonest:
                soonest = f[lane_end + k]
                lane = k
        arrival = at.FAR
        if clients == 0 and coming < n:
            arrival = f[m[at.ISSUED_AT] + coming]
            if arrival <= soonest:
                issue(m, f, coming, arrival)
                coming += 1
                continue
        if soonest == at.FAR:
            break
        clock = soonest
        record = m[at.LANES_AT] + lane * at.LANE_INTS
        replica = m[record + at.LANE_REPLICA]
        rates = m[replica + at.RATES_AT]
        if m[record + at.LANE_BUSY] == 1:
            m[record + at.LANE_BUSY] = 0
            done = end_step(m, f, replica, lane, clock)
            over += done
            wake(m, f, replica, clock)
            if clients > 0 and done > 0:
                due = min(done, n - coming)
                if due > 0:
                    continue  # the lane is looked at again once they are sent
        if m[replica + at.LANES] > 1 and f[rates + at.STAGE_FREE] > clock:
            f[lane_end + lane] = f[rates + at.STAGE_FREE]
            continue
        if m[replica + at.HELD_HEAD] != at.NONE:
            release_held(m, f, replica, clock)
        if m[replica + at.PENDING_HEAD] != at.NONE or m[replica + at.RECEIVE_EVERY] > 1:
            refused = receive(m, f, replica, seen_until(m, f, replica, clock))
            if refused > 0:
                over += refused
                if clients > 0:
                    due = min(refused, n - coming)
                continue
        f[lane_end + lane] = at.FAR
        end = start_step(m, f, replica, lane, clock, horizon_of(m, f, replica, lane, arrival))
        if end < at.FAR:
            m[record + at.LANE_BUSY] = 1
            f[lane_end + lane] = end
        else:  # idle until somebody comes, or until blocks that are being transferred become free
            if m[replica + at.PENDING_HEAD] != at.NONE:
                f[lane_end + lane] = f[times(m, m[replica + at.PENDING_HEAD]) + at.ENTRY]
            if m[replica + at.HELD_HEAD] != at.NONE:
                held = f[times(m, m[replica + at.HELD_HEAD]) + at.ENTRY]
                f[lane_end + lane] = min(f[lane_end + lane], held)
        if clock >= f[rates + at.SAMPLE_AT]:
            sample(m, f, replica, clock)
    return int(n - over)
