"""Columns of the kernel's records. Integers and floats of one kind of thing stand in one array, a row per thing."""

from typing import Final

NONE: Final = -1
FAR: Final = 1.0e300  # "never" as a time, s

# Request, integers. Links: NEXT/PREV in the pending, waiting or running list; PNEXT/PPREV in the seat's prefill queue.
(
    NEXT, PREV, PNEXT, PPREV, TARGET, COMPUTED, CHUNK, GENERATED, JOIN, KV, SEAT, STATE, SHARED, REFS, POS, STAGE,
    REPLICA, DECODER, PREEMPTED, HIT, CLASS, ISL, OSL, SPARE,
) = range(24)  # fmt: skip
REQUEST_INTS: Final = 24
# Request, floats (s): when it was issued, when it reached (or reaches) the engine, first scheduled, first token, done.
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

# Replica, integers; the first part is settings, the second is state.
(
    ROLE, TABLE, LANES, RANKS, SEAT0, POOL0, LANE0, BUDGET, PREFILL_BUDGET, CHUNKED, MIXED, MAX_SEQUENCES, BLOCK,
    WATERMARK, ADMIT, THRESHOLD, MAX_PARTIAL, PREFIX, VISIBLE_EARLY, DRAFT, OVERLAP, BLOCKS,
    LOAD, LOAD_TOKENS, PENDING_HEAD, PENDING_TAIL, PEAK, ITERATIONS, CONTEXT_TOKENS, DECODE_TOKENS, HELD_HEAD,
    HELD_TAIL,
) = range(32)  # fmt: skip
REPLICA_INTS: Final = 32
# Replica, floats; settings, then state. Times in s.
(
    HOST_STEP, HOST_SEQUENCE, REQUEST_TIME, ADVANCE, RATIO_START, RATIO_FLOOR, RATIO_DECAY, TRANSFER_PER_TOKEN,
    TRANSFER_LATENCY, WEIGHT,
    LINK_FREE, STAGE_FREE, PREFILL_TIME, MIXED_TIME, DECODE_TIME, SAMPLE_AT, SAMPLE_GAP, SPARE_F,
) = range(18)  # fmt: skip
REPLICA_FLOATS: Final = 18

# KV pool of one attention-data-parallel rank: blocks free, cached but unused blocks, ends of the least-recently-used
# list, requests assigned and running, and what running requests may still take.
(FREE, CACHED, LRU_HEAD, LRU_TAIL, ASSIGNED, QUEUED, RUNNING, RESERVED, REMAIN_DECODE, REMAIN_PREFILL) = range(10)
POOL_INTS: Final = 10

# Seat: what one rank runs in one lane (pipeline slot). CLOCK counts the tokens every decoding request has advanced.
(CLOCK, STEPS, SEQUENCES, SUM_KV, PREFILLS, QUEUE_HEAD, QUEUE_TAIL, STEP_ADVANCE, HEAP_SIZE, MEMBERS) = range(10)
SEAT_INTS: Final = 10

# Totals of the step that is being put together.
(TOKENS, PROMPTS, PAST, LEFT, PARTIAL, STOPPED, MADE_ROOM, JOINED) = range(8)
STEP_INTS: Final = 8

# Cached segment of a pool: requests that use it (NONE: not cached) and its links in the least-recently-used list.
SEG_USERS, SEG_BEFORE, SEG_AFTER = range(3)
# Segment as a replica sees it: its whole blocks, and where in the prompt it ends.
SEG_BLOCKS, SEG_END = range(2)

# Table: offsets into the flat buffer and lengths.
(
    T_AT, T_N, T_MS, G_AT, G_N, G_MS, B_AT, B_N, N_AT, N_N, P_AT, P_N, BNP_MS, S_AT, S_N, K_AT, K_N, SK_MS,
) = range(18)  # fmt: skip
TABLE_INTS: Final = 18

TIMELINE_POINTS: Final = 1024
TIMELINE_COLUMNS: Final = 4  # time s, KV fraction, running, waiting
