"""KV blocks: taking and giving back, the prefix cache, and the running lists that decide who gives way."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.jit import compiled

Ints = NDArray[np.int64]


@compiled
def blocks_of(tokens: int, block: int) -> int:
    return (tokens + block - 1) // block


@compiled
def request(m: Ints, i: int) -> int:
    return int(m[at.REQUESTS_AT] + i * at.REQUEST_INTS)


@compiled
def times(m: Ints, i: int) -> int:
    """Address in f of the request's times."""
    return int(m[at.TIMES_AT] + i * at.REQUEST_FLOATS)


@compiled
def append(m: Ints, ends: int, i: int) -> None:
    """To the end of a doubly linked list of requests; its first and last stand at `ends`."""
    q = request(m, i)
    m[q + at.NEXT] = at.NONE
    m[q + at.PREV] = m[ends + 1]
    if m[ends + 1] == at.NONE:
        m[ends] = i
    else:
        m[request(m, m[ends + 1]) + at.NEXT] = i
    m[ends + 1] = i


@compiled
def prepend(m: Ints, ends: int, i: int) -> None:
    q = request(m, i)
    m[q + at.PREV] = at.NONE
    m[q + at.NEXT] = m[ends]
    if m[ends] == at.NONE:
        m[ends + 1] = i
    else:
        m[request(m, m[ends]) + at.PREV] = i
    m[ends] = i


@compiled
def unlink(m: Ints, ends: int, i: int) -> None:
    q = request(m, i)
    before, after = m[q + at.PREV], m[q + at.NEXT]
    if before == at.NONE:
        m[ends] = after
    else:
        m[request(m, before) + at.NEXT] = after
    if after == at.NONE:
        m[ends + 1] = before
    else:
        m[request(m, after) + at.PREV] = before


@compiled
def lru_remove(m: Ints, pool: int, cache: int, s: int) -> None:
    if m[cache + 3 * s + at.SEG_BEFORE] == at.NONE:
        m[pool + at.LRU_HEAD] = m[cache + 3 * s + at.SEG_AFTER]
    else:
        m[cache + 3 * (m[cache + 3 * s + at.SEG_BEFORE]) + at.SEG_AFTER] = m[cache + 3 * s + at.SEG_AFTER]
    if m[cache + 3 * s + at.SEG_AFTER] == at.NONE:
        m[pool + at.LRU_TAIL] = m[cache + 3 * s + at.SEG_BEFORE]
    else:
        m[cache + 3 * (m[cache + 3 * s + at.SEG_AFTER]) + at.SEG_BEFORE] = m[cache + 3 * s + at.SEG_BEFORE]


@compiled
def lru_append(m: Ints, pool: int, cache: int, s: int) -> None:
    m[cache + 3 * s + at.SEG_AFTER] = at.NONE
    m[cache + 3 * s + at.SEG_BEFORE] = m[pool + at.LRU_TAIL]
    if m[pool + at.LRU_TAIL] == at.NONE:
        m[pool + at.LRU_HEAD] = s
    else:
        m[cache + 3 * (m[pool + at.LRU_TAIL]) + at.SEG_AFTER] = s
    m[pool + at.LRU_TAIL] = s


@compiled
def take(m: Ints, pool: int, replica: int, count: int) -> None:
    """Take blocks that are known to be there, dropping the least recently used cached segments where needed."""
    cache, seg = m[pool + at.CACHE_AT], m[pool + at.SEGMENTS_AT]
    while m[pool + at.FREE] < count:
        s = m[pool + at.LRU_HEAD]
        lru_remove(m, pool, cache, s)
        m[cache + 3 * s + at.SEG_USERS] = at.NONE
        m[pool + at.CACHED] -= m[seg + 2 * s + at.SEG_BLOCKS]
        m[pool + at.FREE] += m[seg + 2 * s + at.SEG_BLOCKS]
    m[pool + at.FREE] -= count
    used = m[replica + at.BLOCKS] - m[pool + at.FREE] - m[pool + at.CACHED]
    m[replica + at.PEAK] = max(m[replica + at.PEAK], used)


@compiled
def lookup(m: Ints, q: int, replica: int, pool: int) -> None:
    """Cached head of a prompt's chain of segments. found: segments, tokens that need no computing, their blocks, and
    how many of these blocks nobody else uses (they count as available until they are taken)."""
    m[at.FOUND_SEGMENTS] = 0
    m[at.FOUND_TOKENS] = 0
    m[at.FOUND_BLOCKS] = 0
    m[at.FOUND_UNUSED] = 0
    if m[replica + at.PREFIX] == 0:
        return
    cache, seg = m[pool + at.CACHE_AT], m[pool + at.SEGMENTS_AT]
    for p in range(m[q + at.CHAIN_N]):
        s = m[m[q + at.CHAIN_AT] + p]
        if m[cache + 3 * s + at.SEG_USERS] == at.NONE:
            break
        m[at.FOUND_SEGMENTS] += 1
        m[at.FOUND_TOKENS] = m[seg + 2 * s + at.SEG_END]
        m[at.FOUND_BLOCKS] += m[seg + 2 * s + at.SEG_BLOCKS]
        if m[cache + 3 * s + at.SEG_USERS] == 0:
            m[at.FOUND_UNUSED] += m[seg + 2 * s + at.SEG_BLOCKS]
    if m[at.FOUND_SEGMENTS] > 0:
        block = m[replica + at.BLOCK]
        # the last token of a prompt is always computed: its output is the first new token
        m[at.FOUND_TOKENS] = min(m[at.FOUND_TOKENS] // block * block, (m[q + at.TARGET] - 1) // block * block)


@compiled
def hold(m: Ints, q: int, pool: int, count: int) -> None:
    """Use the first `count` segments, all of them cached."""
    cache, seg = m[pool + at.CACHE_AT], m[pool + at.SEGMENTS_AT]
    for p in range(count):
        s = m[m[q + at.CHAIN_AT] + p]
        if m[cache + 3 * s + at.SEG_USERS] == 0:
            lru_remove(m, pool, cache, s)
            m[pool + at.CACHED] -= m[seg + 2 * s + at.SEG_BLOCKS]
        m[cache + 3 * s + at.SEG_USERS] += 1
        m[q + at.SHARED] += m[seg + 2 * s + at.SEG_BLOCKS]
    m[q + at.REFS] = count


@compiled
def publish(m: Ints, q: int, pool: int) -> None:
    """Make the rest of the prompt's chain findable. Stops at a segment that somebody else has put there since."""
    cache, seg = m[pool + at.CACHE_AT], m[pool + at.SEGMENTS_AT]
    for p in range(m[q + at.REFS], m[q + at.CHAIN_N]):
        s = m[m[q + at.CHAIN_AT] + p]
        if m[cache + 3 * s + at.SEG_USERS] != at.NONE:
            break
        m[cache + 3 * s + at.SEG_USERS] = 1
        m[q + at.SHARED] += m[seg + 2 * s + at.SEG_BLOCKS]
        m[q + at.REFS] += 1


@compiled
def give_back(m: Ints, q: int, pool: int, tokens: int, block: int) -> None:
    """Own blocks become free; segments nobody uses any more stay cached, deeper ones are the first to go."""
    cache, seg = m[pool + at.CACHE_AT], m[pool + at.SEGMENTS_AT]
    m[pool + at.FREE] += blocks_of(tokens, block) - m[q + at.SHARED]
    for p in range(m[q + at.REFS] - 1, -1, -1):
        s = m[m[q + at.CHAIN_AT] + p]
        m[cache + 3 * s + at.SEG_USERS] -= 1
        if m[cache + 3 * s + at.SEG_USERS] == 0:
            lru_append(m, pool, cache, s)
            m[pool + at.CACHED] += m[seg + 2 * s + at.SEG_BLOCKS]
    m[q + at.REFS] = 0
    m[q + at.SHARED] = 0


@compiled
def leave_behind(m: Ints, q: int, pool: int) -> None:
    """The finished sequence as a segment for the next turn of its session. Call after `give_back`, which freed its
    blocks. Skipped where an earlier part of the session is not cached."""
    own = m[q + at.OWN]
    if own == at.NONE:
        return
    cache, seg = m[pool + at.CACHE_AT], m[pool + at.SEGMENTS_AT]
    blocks = m[seg + 2 * own + at.SEG_BLOCKS]
    if m[cache + 3 * own + at.SEG_USERS] != at.NONE or blocks > m[pool + at.FREE]:
        return
    chain, count = m[q + at.CHAIN_AT], m[q + at.CHAIN_N]
    for p in range(count):
        if m[cache + 3 * m[chain + p] + at.SEG_USERS] == at.NONE:
            return
    m[pool + at.FREE] -= blocks
    m[pool + at.CACHED] += blocks
    m[cache + 3 * own + at.SEG_USERS] = 0
    lru_append(m, pool, cache, own)
    for p in range(count - 1, -1, -1):  # the older turns are used together with it: they go last
        s = m[chain + p]
        if m[cache + 3 * s + at.SEG_USERS] == 0:
            lru_remove(m, pool, cache, s)
            lru_append(m, pool, cache, s)


@compiled
def heap_set(m: Ints, heap: int, place: int, entry: int) -> None:
    m[heap + place] = entry
    m[request(m, entry & at.HEAP_REQUEST) + at.POS] = place


@compiled
def heap_push(m: Ints, heap: int, size: int, entry: int) -> None:
    """Heap of (clock at which done, request), in one number each; a request knows its place."""
    place = size
    while place > 0:
        up = (place - 1) >> 1
        if m[heap + up] <= entry:
            break
        heap_set(m, heap, place, m[heap + up])
        place = up
    heap_set(m, heap, place, entry)


@compiled
def heap_remove(m: Ints, heap: int, size: int, place: int) -> None:
    """Remove the entry at `place` of a heap of `size` entries."""
    last = size - 1
    if place == last:
        return
    entry = m[heap + last]
    while place > 0 and m[heap + ((place - 1) >> 1)] > entry:
        up = (place - 1) >> 1
        heap_set(m, heap, place, m[heap + up])
        place = up
    while True:
        child = 2 * place + 1
        if child >= last:
            break
        if child + 1 < last and m[heap + child + 1] < m[heap + child]:
            child += 1
        if m[heap + child] >= entry:
            break
        heap_set(m, heap, place, m[heap + child])
        place = child
    heap_set(m, heap, place, entry)
