"""The kernel's memory: two arenas, `m` of integers and `f` of floats, and where things stand in them.

A record is addressed by the index of its first value, a field by adding its number: `m[q + FIELD]`. Two arrays and
plain indices are all that compiled functions hand to each other, which is what makes them fast. `pack.py` lays the
arenas out; absolute addresses are kept in the header and in the records.
"""

from typing import Final
from zlib import crc32

NONE: Final = -1
FAR: Final = 1.0e300  # "never" as a time, s

# Header of m: counts, addresses of the tables of records, and the totals of the step that is being put together.
(
    N_REQUESTS, N_CLASSES, N_REPLICAS, N_LANES, CLIENTS, ROUTER, DECODE_ROUTER, FRONT_AT, FRONT_N, DECODERS_AT,
    DECODERS_N, FRONT_TURN, DECODE_TURN, REQUESTS_AT, TIMES_AT, ISSUED_AT, DRAWS_AT, REPLICAS_AT, LANES_AT, LANE_END_AT,
    TOKENS, PROMPTS, PAST, LEFT, PARTIAL, STOPPED, MADE_ROOM,
    FOUND_SEGMENTS, FOUND_TOKENS, FOUND_BLOCKS, FOUND_UNUSED, SIGN_AT, INTS, FLOATS,
) = range(34)  # fmt: skip
HEADER: Final = 34

# Request. Links: NEXT/PREV in the pending, waiting or running list; PNEXT/PPREV in the seat's prefill queue.
(
    NEXT, PREV, PNEXT, PPREV, TARGET, COMPUTED, CHUNK, GENERATED, JOIN, KV, SEAT, STATE, SHARED, REFS, POS, REPLICA,
    DECODER, PREEMPTED, HIT, CLASS, ISL, OSL, CHAIN_AT, CHAIN_N, OWN, GROUP,
) = range(26)  # fmt: skip
REQUEST_INTS: Final = 26
# Its times (s, in f): when it was issued, reached (or reaches) the engine, was first scheduled, first token, done.
ISSUED, ENTRY, SCHEDULED, FIRST, DONE = range(5)
REQUEST_FLOATS: Final = 5

# States of a request.
PENDING, WAITING, PREFILL, DECODE, TRANSFER, FINISHED, REJECTED = range(1, 8)

# Roles of a replica.
AGGREGATED, PREFILLER, DECODER_ROLE = range(3)

# What must fit into the KV cache when a prompt is admitted: the prompt; prompt and whole output of all; prompt and a
# share of the outputs.
ADMIT_PROMPT, ADMIT_OUTPUT, ADMIT_RATIO = range(3)

# Routers.
RANDOM, ROUND_ROBIN, LEAST_LOADED, PREFIX_AFFINITY, KV_AWARE = range(5)

# Replica: settings, then state.
(
    ROLE, TABLE_AT, LANES, RANKS, SEATS_AT, POOLS_AT, LANE0, BUDGET, PREFILL_BUDGET, CHUNKED, MIXED, MAX_SEQUENCES,
    BLOCK, WATERMARK, ADMIT, THRESHOLD, MAX_PARTIAL, PREFIX, VISIBLE_EARLY, EACH, OVERLAP, AHEAD, RECEIVE_EVERY,
    WAIT_ITERATIONS, WAIT_TOKENS, BALANCE, BLOCKS, RATES_AT, LINE_AT,
    LOAD, LOAD_TOKENS, PENDING_HEAD, PENDING_TAIL, PEAK, ITERATIONS, CONTEXT_TOKENS, DECODE_TOKENS, HELD_HEAD,
    HELD_TAIL, LINE_N, SINCE_RECEIVE, WAITED,
) = range(42)  # fmt: skip
REPLICA_INTS: Final = 42
# Its rates (in f): settings, then state. Times in s.
(
    HOST_STEP, HOST_SEQUENCE, REQUEST_TIME, ENTRY_PER_TOKEN, ADVANCE, RATIO_START, RATIO_FLOOR, RATIO_DECAY,
    TRANSFER_PER_TOKEN, TRANSFER_LATENCY, WEIGHT,
    LINK_FREE, STAGE_FREE, PREFILL_TIME, MIXED_TIME, DECODE_TIME, SAMPLE_AT, SAMPLE_GAP, LAST_START, ENTRY_FREE,
) = range(20)  # fmt: skip
REPLICA_FLOATS: Final = 20

# KV pool of one attention-data-parallel rank: blocks free, cached but unused blocks, ends of the least-recently-used
# list, requests assigned, queued and running, and what running requests may still take.
(
    FREE, CACHED, LRU_HEAD, LRU_TAIL, ASSIGNED, QUEUED, RUNNING, RESERVED, REMAIN_DECODE, REMAIN_PREFILL, CACHE_AT,
    SEGMENTS_AT, WAITING_AT,
) = range(13)  # fmt: skip
POOL_INTS: Final = 13

# Seat: what one rank runs in one lane (pipeline slot). CLOCK counts the tokens every decoding request has advanced.
(
    CLOCK, STEPS, SEQUENCES, SUM_KV, PREFILLS, QUEUE_HEAD, QUEUE_TAIL, STEP_ADVANCE, HEAP_SIZE, MEMBERS, OF_REPLICA,
    OF_POOL, RUNNING_AT, BUCKETS_AT, HEAP_AT, RATIO_AT,
) = range(16)  # fmt: skip
SEAT_INTS: Final = 16

# Lane: its replica (address), and whether an iteration is under way. When that ends stands in f at LANE_END_AT.
LANE_REPLICA, LANE_BUSY = range(2)
LANE_INTS: Final = 2

# Cached segment of a pool: requests that use it (NONE: not cached) and its links in the least-recently-used list.
SEG_USERS, SEG_BEFORE, SEG_AFTER = range(3)
SEG_INTS: Final = 3
# Segment as a replica sees it: its whole blocks, and where in the prompt it ends.
SEG_BLOCKS, SEG_END = range(2)
SEG_SHAPE_INTS: Final = 2

# Heap entry: the seat's clock at which a request is done, then the request.
HEAP_SHIFT: Final = 23
HEAP_REQUEST: Final = (1 << HEAP_SHIFT) - 1

# Table: of each axis the address of its knots in f, their number and the cell last used; addresses of the values.
(
    T_AT, T_N, T_LAST, T_MS, G_AT, G_N, G_LAST, G_MS, B_AT, B_N, B_LAST, N_AT, N_N, N_LAST, P_AT, P_N, P_LAST, BNP_MS,
    S_AT, S_N, S_LAST, K_AT, K_N, K_LAST, SK_MS,
) = range(25)  # fmt: skip
TABLE_INTS: Final = 25

TIMELINE_POINTS: Final = 1024
TIMELINE_COLUMNS: Final = 4  # time s, KV fraction, running, waiting

# Sign of this layout, compiled into the loop and written into every arena: code of another layout refuses to run.
SIGN: Final = crc32(repr(sorted((name, v) for name, v in globals().items() if isinstance(v, int | float))).encode())
FOREIGN: Final = -1  # what the loop then returns
