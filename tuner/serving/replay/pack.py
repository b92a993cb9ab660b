"""A fleet and its requests as the flat arrays that the compiled loop works on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlplane.model.errors import InvalidSpec
from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.fleet import Fleet, Replica
from tuner.serving.replay.requests import Requests
from tuner.serving.step.table import StepTable

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

UNLIMITED_BLOCKS = 1 << 40
MOST_VALUES = 1 << 29  # of both arenas, 8 bytes each
ADMISSION = {
    "prompt": at.ADMIT_PROMPT,
    "prompt-and-output": at.ADMIT_OUTPUT,
    "prompt-and-output-share": at.ADMIT_RATIO,
}
ROLES = {"aggregated": at.AGGREGATED, "prefill": at.PREFILLER, "decode": at.DECODER_ROLE}
ROUTERS = {
    "random": at.RANDOM,
    "round-robin": at.ROUND_ROBIN,
    "least-loaded": at.LEAST_LOADED,
    "prefix-affinity": at.PREFIX_AFFINITY,
    "kv-aware": at.KV_AWARE,
}


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """The two arenas and views of the parts that results are read from."""

    m: Ints
    f: Floats
    requests: Ints
    times: Floats
    replicas: Ints
    rates: Floats
    timelines: Floats


class _Arena:
    """Places are handed out first; the array is made once all sizes are known."""

    def __init__(self, used: int = 0) -> None:
        self.used = used

    def place(self, count: int) -> int:
        begin = self.used
        self.used += count
        return begin


def draws_of(count: int, seed: int) -> Floats:
    """The random numbers that routers use: two for each request."""
    return np.random.default_rng([seed, 3]).random((count, 2))


def pack(fleet: Fleet, requests: Requests, *, seed: int) -> Packed:
    n = len(requests)
    replicas = fleet.replicas
    count = len(replicas)
    classes, priority = _classes(fleet, requests)
    ints, floats = _Arena(at.HEADER), _Arena()
    random = fleet.router == "random" or fleet.decode_router == "random"
    buffer, table_rows, table_of = _tables(fleet)
    buffer_at = floats.place(buffer.size)
    times_at = floats.place(n * at.REQUEST_FLOATS)
    issued_at = floats.place(n if requests.clients is None else 0)
    draws_at = floats.place(2 * n if random else 0)
    rates_at = floats.place(count * at.REPLICA_FLOATS)
    lines_at = floats.place(count * at.TIMELINE_POINTS * at.TIMELINE_COLUMNS)
    n_lanes = sum(replica.pipeline_stages for replica in replicas)
    lane_end_at = floats.place(n_lanes)
    requests_at = ints.place(n * at.REQUEST_INTS)
    replicas_at = ints.place(count * at.REPLICA_INTS)
    front = [r for r, replica in enumerate(replicas) if replica.role != "decode"]
    decoders = [r for r, replica in enumerate(replicas) if replica.role == "decode"]
    front_at, decoders_at = ints.place(len(front)), ints.place(len(decoders))
    lanes_at = ints.place(n_lanes * at.LANE_INTS)
    tables_at = ints.place(table_rows.size)
    chains_at = ints.place(requests.segment_ids.size)
    places = [_place_replica(replica, requests, classes, ints, floats) for replica in replicas]

    if ints.used + floats.used > MOST_VALUES:
        raise InvalidSpec(
            "the replay needs too much memory", field="requests", value=f"{(ints.used + floats.used) >> 17} MiB",
            limit=f"{MOST_VALUES >> 17} MiB", hint="fewer requests, replicas or attention ranks",
        )  # fmt: skip
    m = np.full(ints.used, at.NONE, np.int64)
    f = np.zeros(floats.used)
    m[: at.HEADER] = 0
    for slot, value in (
        (at.N_REQUESTS, n), (at.N_CLASSES, classes), (at.N_REPLICAS, count), (at.N_LANES, n_lanes),
        (at.CLIENTS, requests.clients or 0), (at.ROUTER, ROUTERS[fleet.router]),
        (at.DECODE_ROUTER, ROUTERS[fleet.decode_router]), (at.FRONT_AT, front_at), (at.FRONT_N, len(front)),
        (at.DECODERS_AT, decoders_at), (at.DECODERS_N, len(decoders)), (at.REQUESTS_AT, requests_at),
        (at.TIMES_AT, times_at), (at.ISSUED_AT, issued_at), (at.DRAWS_AT, draws_at), (at.REPLICAS_AT, replicas_at),
        (at.LANES_AT, lanes_at), (at.LANE_END_AT, lane_end_at),
        (at.SIGN_AT, at.SIGN), (at.INTS, ints.used), (at.FLOATS, floats.used),
    ):  # fmt: skip
        m[slot] = value
    f[buffer_at : buffer_at + buffer.size] = buffer
    if requests.clients is None:
        f[issued_at : issued_at + n] = requests.arrival_s
    if random:
        f[draws_at : draws_at + 2 * n] = draws_of(n, seed).ravel()
    f[lane_end_at : lane_end_at + n_lanes] = at.FAR
    m[front_at : front_at + len(front)] = [replicas_at + r * at.REPLICA_INTS for r in front]
    m[decoders_at : decoders_at + len(decoders)] = [replicas_at + r * at.REPLICA_INTS for r in decoders]
    m[tables_at : tables_at + table_rows.size] = table_rows.ravel()
    m[chains_at : chains_at + requests.segment_ids.size] = requests.segment_ids

    times = f[times_at : times_at + n * at.REQUEST_FLOATS].reshape(n, at.REQUEST_FLOATS)
    times[:] = at.FAR
    rows = m[requests_at : requests_at + n * at.REQUEST_INTS].reshape(n, at.REQUEST_INTS)
    _fill_requests(rows, requests, priority, chains_at)
    rates = f[rates_at : rates_at + count * at.REPLICA_FLOATS].reshape(count, at.REPLICA_FLOATS)
    replica_rows = m[replicas_at : replicas_at + count * at.REPLICA_INTS].reshape(count, at.REPLICA_INTS)
    lane = 0
    for r, replica in enumerate(replicas):
        row = replica_rows[r]
        row[:] = 0
        _settings(row, replica)
        row[at.TABLE_AT] = tables_at + table_of[r] * at.TABLE_INTS
        row[at.LANE0] = lane
        row[at.RATES_AT] = rates_at + r * at.REPLICA_FLOATS
        row[at.LINE_AT] = lines_at + r * at.TIMELINE_POINTS * at.TIMELINE_COLUMNS
        for _ in range(replica.pipeline_stages):
            begin = lanes_at + lane * at.LANE_INTS
            m[begin + at.LANE_REPLICA], m[begin + at.LANE_BUSY] = replicas_at + r * at.REPLICA_INTS, 0
            lane += 1
        _rates(rates[r], replica, fleet)
        _fill_replica(m, f, row, replicas_at + r * at.REPLICA_INTS, places[r], replica, requests)
    lines = f[lines_at : lines_at + count * at.TIMELINE_POINTS * at.TIMELINE_COLUMNS]
    return Packed(m, f, rows, times, replica_rows, rates, lines.reshape(count, at.TIMELINE_POINTS, at.TIMELINE_COLUMNS))


@dataclass(frozen=True, slots=True)
class _Places:
    """Addresses of what belongs to one replica."""

    seats: int
    pools: int
    running: int
    waiting: int
    buckets: int
    heaps: int
    caches: int
    shapes: int
    ratios: int
    heap_entries: int
    classes: int


def _place_replica(replica: Replica, requests: Requests, classes: int, ints: _Arena, floats: _Arena) -> _Places:
    rules = replica.rules
    ranks, seats = replica.attention_ranks, replica.attention_ranks * replica.pipeline_stages
    n, segments = len(requests), requests.segment_ends.size
    entries = min(rules.max_sequences, rules.token_budget + 1 if rules.mixed else n, n) + 1
    return _Places(
        seats=ints.place(seats * at.SEAT_INTS), pools=ints.place(ranks * at.POOL_INTS),
        running=ints.place(seats * classes * 2), waiting=ints.place(ranks * classes * 2),
        buckets=ints.place(seats * rules.block_tokens), heaps=ints.place(seats * entries),
        caches=ints.place(ranks * segments * at.SEG_INTS), shapes=ints.place(segments * at.SEG_SHAPE_INTS),
        ratios=floats.place(seats), heap_entries=entries, classes=classes,
    )  # fmt: skip


def _fill_requests(rows: Ints, requests: Requests, priority: Ints, chains_at: int) -> None:
    rows[:] = 0
    for column in (at.NEXT, at.PREV, at.PNEXT, at.PPREV, at.SEAT, at.REPLICA, at.DECODER):
        rows[:, column] = at.NONE
    rows[:, at.ISL] = requests.isl
    rows[:, at.OSL] = requests.osl
    rows[:, at.CLASS] = priority
    if requests.segment_offsets is not None:
        rows[:, at.CHAIN_AT] = chains_at + requests.segment_offsets[:-1]
        rows[:, at.CHAIN_N] = np.diff(requests.segment_offsets)
    rows[:, at.OWN] = at.NONE if requests.own_segment is None else requests.own_segment
    rows[:, at.GROUP] = at.NONE if requests.group is None else requests.group


def _fill_replica(
    m: Ints, f: Floats, row: Ints, address: int, places: _Places, replica: Replica, requests: Requests
) -> None:
    rules = replica.rules
    segments = requests.segment_ends.size
    row[at.SEATS_AT], row[at.POOLS_AT] = places.seats, places.pools
    parents = requests.segment_parents
    begins = np.where(parents >= 0, requests.segment_ends[parents], 0) if segments else requests.segment_ends
    shape = m[places.shapes : places.shapes + segments * at.SEG_SHAPE_INTS].reshape(segments, at.SEG_SHAPE_INTS)
    shape[:, at.SEG_BLOCKS] = requests.segment_ends // rules.block_tokens - begins // rules.block_tokens
    shape[:, at.SEG_END] = requests.segment_ends
    for rank in range(replica.attention_ranks):
        pool = m[places.pools + rank * at.POOL_INTS :][: at.POOL_INTS]
        pool[:] = 0
        pool[at.FREE] = row[at.BLOCKS]
        pool[at.LRU_HEAD] = pool[at.LRU_TAIL] = at.NONE
        pool[at.CACHE_AT] = places.caches + rank * segments * at.SEG_INTS
        pool[at.SEGMENTS_AT] = places.shapes
        pool[at.WAITING_AT] = places.waiting + rank * places.classes * 2
    for k in range(replica.attention_ranks * replica.pipeline_stages):
        seat = m[places.seats + k * at.SEAT_INTS :][: at.SEAT_INTS]
        seat[:] = 0
        seat[at.QUEUE_HEAD] = seat[at.QUEUE_TAIL] = at.NONE
        seat[at.OF_REPLICA] = address
        seat[at.OF_POOL] = places.pools + k % replica.attention_ranks * at.POOL_INTS
        seat[at.RUNNING_AT] = places.running + k * places.classes * 2
        seat[at.BUCKETS_AT] = places.buckets + k * rules.block_tokens
        seat[at.HEAP_AT] = places.heaps + k * places.heap_entries
        seat[at.RATIO_AT] = places.ratios + k
        m[seat[at.BUCKETS_AT] : seat[at.BUCKETS_AT] + rules.block_tokens] = 0
        f[places.ratios + k] = rules.output_share


def _classes(fleet: Fleet, requests: Requests) -> tuple[int, Ints]:
    """Number of priority classes, and each request's. One class where no engine looks at priorities."""
    if requests.priority is None or not any(replica.rules.priorities for replica in fleet.replicas):
        return 1, np.zeros(len(requests), np.int64)
    known, classes = np.unique(requests.priority, return_inverse=True)
    return int(known.size), classes.astype(np.int64)


def _tables(fleet: Fleet) -> tuple[Floats, Ints, list[int]]:
    """All tables in one buffer, times in s; replicas with the same table share it."""
    seen: dict[int, int] = {}
    pieces: list[NDArray[np.float64]] = []
    rows: list[list[int]] = []
    table_of: list[int] = []
    offset = 0
    for replica in fleet.replicas:
        table = replica.table
        if id(table) not in seen:
            _check(table)
            seen[id(table)] = len(rows)
            row: list[int] = []
            for values, is_axis in _parts(table):
                flat = np.ascontiguousarray(values, np.float64).ravel()
                row.append(offset)
                if is_axis:
                    row += [flat.size, 0]
                pieces.append(flat if is_axis else flat * 1e-3)
                offset += flat.size
            rows.append(row)
        table_of.append(seen[id(table)])
    return np.concatenate(pieces), np.array(rows, np.int64), table_of


def _check(t: StepTable) -> None:
    """The compiled loop reads the grids unchecked."""
    axes = [values for values, is_axis in _parts(t) if is_axis]
    grids = (
        (t.context_ms, (t.context_tokens.size,)), (t.decode_ms, (t.decode_sequences.size,)),
        (t.context_attention_ms, tuple(axis.size for axis in axes[2:5])),
        (t.decode_attention_ms, tuple(axis.size for axis in axes[5:7])),
    )  # fmt: skip
    if any(axis.size < 2 or not bool((np.diff(axis) > 0).all()) for axis in axes):
        raise InvalidSpec("an axis of a step table is not two or more rising knots", field="table")
    if any(grid.shape != shape or not np.isfinite(grid).all() or float(grid.min()) < 0 for grid, shape in grids):
        raise InvalidSpec("a grid of a step table does not fit its axes, or holds no times", field="table")


def _parts(t: StepTable) -> list[tuple[NDArray[np.float64], bool]]:
    return [
        (t.context_tokens, True), (t.context_ms, False),
        (t.decode_sequences, True), (t.decode_ms, False),
        (t.context_attention_batch, True), (t.context_attention_new, True), (t.context_attention_past, True),
        (t.context_attention_ms, False),
        (t.decode_attention_sequences, True), (t.decode_attention_kv, True), (t.decode_attention_ms, False),
    ]  # fmt: skip


def _rates(row: Floats, replica: Replica, fleet: Fleet) -> None:
    rules = replica.rules
    row[at.HOST_STEP] = replica.host_step_ms * 1e-3
    row[at.HOST_SEQUENCE] = replica.host_sequence_ms * 1e-3
    row[at.REQUEST_TIME] = replica.request_ms * 1e-3
    row[at.ENTRY_PER_TOKEN] = replica.entry_token_ms * 1e-3
    row[at.ADVANCE] = 1.0 + replica.accepted_tokens
    row[at.RATIO_START] = rules.output_share
    row[at.RATIO_FLOOR] = rules.output_share_floor
    row[at.RATIO_DECAY] = rules.output_share_decay
    row[at.WEIGHT] = replica.weight
    if fleet.link is not None:
        row[at.TRANSFER_PER_TOKEN] = fleet.link.bytes_per_token / fleet.link.bytes_per_s
        row[at.TRANSFER_LATENCY] = fleet.link.latency_s


def _settings(row: NDArray[np.int64], replica: Replica) -> None:
    rules = replica.rules
    blocks = UNLIMITED_BLOCKS if replica.kv_blocks is None else replica.kv_blocks
    row[at.ROLE] = ROLES[replica.role]
    row[at.LANES] = replica.pipeline_stages
    row[at.RANKS] = replica.attention_ranks
    row[at.BUDGET] = rules.token_budget
    row[at.PREFILL_BUDGET] = rules.token_budget if rules.mixed else rules.prefill_budget
    row[at.CHUNKED] = rules.chunked
    row[at.MIXED] = rules.mixed
    row[at.MAX_SEQUENCES] = rules.max_sequences
    row[at.BLOCK] = rules.block_tokens
    row[at.BLOCKS] = blocks
    row[at.WATERMARK] = 0 if replica.kv_blocks is None else int(rules.watermark * blocks)
    row[at.ADMIT] = ADMISSION[rules.admission]
    row[at.THRESHOLD] = rules.long_prompt_tokens or 0
    row[at.MAX_PARTIAL] = rules.max_partial_prefills or 0
    row[at.PREFIX] = rules.prefix_caching
    row[at.VISIBLE_EARLY] = rules.prefix_caching and rules.prefix_visible == "admission"
    row[at.EACH] = 1 + replica.draft_tokens
    row[at.OVERLAP] = rules.host_overlapped
    row[at.AHEAD] = rules.planned_ahead
    row[at.RECEIVE_EVERY] = rules.receive_every
    row[at.WAIT_ITERATIONS] = rules.wait_iterations
    row[at.WAIT_TOKENS] = rules.wait_tokens
    row[at.BALANCE] = rules.balance_iterations
    for column in (at.PENDING_HEAD, at.PENDING_TAIL, at.HELD_HEAD, at.HELD_TAIL):
        row[column] = at.NONE
