"""A fleet and its requests as the flat arrays that the compiled loop works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.fleet import Fleet, Replica
from tuner.serving.replay.requests import Requests
from tuner.serving.step.table import StepTable

UNLIMITED_BLOCKS = 1 << 40
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
    """`arguments` in the order of `compiled.loop.replay`; the arrays that results are read from by name."""

    arguments: tuple[Any, ...]
    issued: NDArray[np.float64]
    requests: NDArray[np.int64]
    times: NDArray[np.float64]
    replicas: NDArray[np.int64]
    replica_times: NDArray[np.float64]
    timelines: NDArray[np.float64]
    timeline_lengths: NDArray[np.int64]


def draws_of(count: int, seed: int) -> NDArray[np.float64]:
    """The random numbers that routers use: two for each request."""
    return np.random.default_rng([seed, 3]).random((count, 2))


def pack(fleet: Fleet, requests: Requests, *, seed: int) -> Packed:
    n = len(requests)
    buffer, tables, table_of = _tables(fleet)
    replicas, rep_f = _replicas(fleet, table_of)
    classes, priority = _classes(fleet, requests)
    rows = np.full((n, at.REQUEST_INTS), 0, np.int64)
    rows[:, (at.NEXT, at.PREV, at.PNEXT, at.PPREV, at.SEAT, at.REPLICA, at.DECODER)] = at.NONE
    rows[:, at.ISL] = requests.isl
    rows[:, at.OSL] = requests.osl
    rows[:, at.CLASS] = priority
    times = np.full((n, at.REQUEST_FLOATS), at.FAR)
    n_pools = int(replicas[:, at.RANKS].sum())
    n_seats = int((replicas[:, at.RANKS] * replicas[:, at.LANES]).sum())
    pools = np.zeros((n_pools, at.POOL_INTS), np.int64)
    pools[:, (at.LRU_HEAD, at.LRU_TAIL)] = at.NONE
    pools[:, at.FREE] = np.repeat(replicas[:, at.BLOCKS], replicas[:, at.RANKS])
    seats = np.zeros((n_seats, at.SEAT_INTS), np.int64)
    seats[:, (at.QUEUE_HEAD, at.QUEUE_TAIL)] = at.NONE
    per_seat = replicas[:, at.RANKS] * replicas[:, at.LANES]
    ratios = np.repeat(rep_f[:, at.RATIO_START], per_seat).reshape(-1, 1).copy()
    places = max(
        min(r.rules.max_sequences, r.rules.token_budget + 1 if r.rules.mixed else n, n) for r in fleet.replicas
    )
    heaps = np.zeros((n_seats, places + 1), np.int64)
    segments = requests.segment_ends.size
    parents = requests.segment_parents
    begins = np.where(parents >= 0, requests.segment_ends[parents], 0) if segments else np.zeros(0, np.int64)
    segs = np.zeros((len(fleet.replicas), 2, segments), np.int64)
    for r, replica in enumerate(fleet.replicas):
        block = replica.rules.block_tokens
        segs[r, at.SEG_BLOCKS] = requests.segment_ends // block - begins // block
        segs[r, at.SEG_END] = requests.segment_ends
    caches = np.full((n_pools, 3, segments), at.NONE, np.int64)
    roles = replicas[:, at.ROLE]
    issued = np.zeros(n) if requests.clients is not None else np.array(requests.arrival_s, np.float64)
    lines = np.zeros((len(fleet.replicas), at.TIMELINE_POINTS, at.TIMELINE_COLUMNS))
    counts = np.zeros((len(fleet.replicas), 1), np.int64)
    none = np.full(n, at.NONE, np.int64)
    arguments = (
        issued, requests.clients or 0, rows, times, replicas, rep_f, pools, seats, ratios,
        np.full((n_pools, classes, 2), at.NONE, np.int64), np.full((n_seats, classes, 2), at.NONE, np.int64),
        np.zeros((n_seats, int(replicas[:, at.BLOCK].max())), np.int64), heaps, heaps.copy(),
        _writable(requests.segment_offsets, np.zeros(n + 1, np.int64)), _writable(requests.segment_ids, none),
        _writable(requests.own_segment, none), caches, segs, buffer, tables,
        np.repeat(np.arange(len(fleet.replicas)), replicas[:, at.LANES]).astype(np.int64),
        np.array([ROUTERS[fleet.router], ROUTERS[fleet.decode_router]], np.int64),
        np.flatnonzero(roles != at.DECODER_ROLE).astype(np.int64),
        np.flatnonzero(roles == at.DECODER_ROLE).astype(np.int64),
        draws_of(n, seed), _writable(requests.group, none), lines, counts,
    )  # fmt: skip
    return Packed(arguments, issued, rows, times, replicas, rep_f, lines, counts)


def _writable(values: NDArray[np.int64] | None, otherwise: NDArray[np.int64]) -> NDArray[np.int64]:
    """A copy: compiled signatures tell read-only arrays apart, and one signature is kept on disk."""
    return np.array(otherwise if values is None else values, np.int64, order="C")


def _classes(fleet: Fleet, requests: Requests) -> tuple[int, NDArray[np.int64]]:
    """Number of priority classes, and each request's. One class where no engine looks at priorities."""
    if requests.priority is None or not any(replica.rules.priorities for replica in fleet.replicas):
        return 1, np.zeros(len(requests), np.int64)
    known, classes = np.unique(requests.priority, return_inverse=True)
    return int(known.size), classes.astype(np.int64)


def _tables(fleet: Fleet) -> tuple[NDArray[np.float64], NDArray[np.int64], list[int]]:
    """All tables in one buffer, times in s; replicas with the same table share it."""
    seen: dict[int, int] = {}
    pieces: list[NDArray[np.float64]] = []
    rows: list[list[int]] = []
    table_of: list[int] = []
    offset = 0
    for replica in fleet.replicas:
        table = replica.table
        if id(table) not in seen:
            seen[id(table)] = len(rows)
            row: list[int] = []
            for values, is_axis in _parts(table):
                flat = np.ascontiguousarray(values, np.float64).ravel()
                row.append(offset)
                if is_axis:
                    row.append(flat.size)
                pieces.append(flat if is_axis else flat * 1e-3)
                offset += flat.size
            rows.append(row)
        table_of.append(seen[id(table)])
    return np.concatenate(pieces), np.array(rows, np.int64), table_of


def _parts(t: StepTable) -> list[tuple[NDArray[np.float64], bool]]:
    return [
        (t.context_tokens, True), (t.context_ms, False),
        (t.decode_sequences, True), (t.decode_ms, False),
        (t.context_attention_batch, True), (t.context_attention_new, True), (t.context_attention_past, True),
        (t.context_attention_ms, False),
        (t.decode_attention_sequences, True), (t.decode_attention_kv, True), (t.decode_attention_ms, False),
    ]  # fmt: skip


def _replicas(fleet: Fleet, table_of: list[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rows = np.zeros((len(fleet.replicas), at.REPLICA_INTS), np.int64)
    times = np.zeros((len(fleet.replicas), at.REPLICA_FLOATS))
    seat = pool = lane = 0
    for r, replica in enumerate(fleet.replicas):
        row = rows[r]
        _settings(row, replica)
        row[at.TABLE] = table_of[r]
        row[at.SEAT0], row[at.POOL0], row[at.LANE0] = seat, pool, lane
        seat += replica.attention_ranks * replica.pipeline_stages
        pool += replica.attention_ranks
        lane += replica.pipeline_stages
        rules = replica.rules
        times[r, at.HOST_STEP] = replica.host_step_ms * 1e-3
        times[r, at.HOST_SEQUENCE] = replica.host_sequence_ms * 1e-3
        times[r, at.REQUEST_TIME] = replica.request_ms * 1e-3
        times[r, at.ADVANCE] = 1.0 + replica.accepted_tokens
        times[r, at.RATIO_START] = rules.output_share
        times[r, at.RATIO_FLOOR] = rules.output_share_floor
        times[r, at.RATIO_DECAY] = rules.output_share_decay
        times[r, at.WEIGHT] = replica.weight
        if fleet.link is not None:
            times[r, at.TRANSFER_PER_TOKEN] = fleet.link.bytes_per_token / fleet.link.bytes_per_s
            times[r, at.TRANSFER_LATENCY] = fleet.link.latency_s
    return rows, times


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
    row[at.DRAFT] = replica.draft_tokens
    row[at.OVERLAP] = rules.host_overlapped
    for column in (at.PENDING_HEAD, at.PENDING_TAIL, at.HELD_HEAD, at.HELD_TAIL):
        row[column] = at.NONE
