"""at.KV blocks: taking and giving back, the prefix cache, and the running lists that decide who gives way."""

import numpy as np
from numpy.typing import NDArray

from tuner.serving.replay.compiled import layout as at
from tuner.serving.replay.compiled.jit import compiled

Ints = NDArray[np.int64]
Table = NDArray[np.int64]  # two-dimensional


@compiled
def blocks_of(tokens: int, block: int) -> int:
    return (tokens + block - 1) // block


@compiled
def append(records: Table, ends: Ints, item: int) -> None:
    """To the end of a doubly linked list; `ends` holds its first and last item."""
    records[item, at.NEXT] = at.NONE
    records[item, at.PREV] = ends[1]
    if ends[1] == at.NONE:
        ends[0] = item
    else:
        records[ends[1], at.NEXT] = item
    ends[1] = item


@compiled
def prepend(records: Table, ends: Ints, item: int) -> None:
    records[item, at.PREV] = at.NONE
    records[item, at.NEXT] = ends[0]
    if ends[0] == at.NONE:
        ends[1] = item
    else:
        records[ends[0], at.PREV] = item
    ends[0] = item


@compiled
def unlink(records: Table, ends: Ints, item: int) -> None:
    before, after = records[item, at.PREV], records[item, at.NEXT]
    if before == at.NONE:
        ends[0] = after
    else:
        records[before, at.NEXT] = after
    if after == at.NONE:
        ends[1] = before
    else:
        records[after, at.PREV] = before


@compiled
def lru_remove(pool: Ints, cache: Table, s: int) -> None:
    if cache[at.SEG_BEFORE, s] == at.NONE:
        pool[at.LRU_HEAD] = cache[at.SEG_AFTER, s]
    else:
        cache[at.SEG_AFTER, cache[at.SEG_BEFORE, s]] = cache[at.SEG_AFTER, s]
    if cache[at.SEG_AFTER, s] == at.NONE:
        pool[at.LRU_TAIL] = cache[at.SEG_BEFORE, s]
    else:
        cache[at.SEG_BEFORE, cache[at.SEG_AFTER, s]] = cache[at.SEG_BEFORE, s]


@compiled
def lru_append(pool: Ints, cache: Table, s: int) -> None:
    cache[at.SEG_AFTER, s] = at.NONE
    cache[at.SEG_BEFORE, s] = pool[at.LRU_TAIL]
    if pool[at.LRU_TAIL] == at.NONE:
        pool[at.LRU_HEAD] = s
    else:
        cache[at.SEG_AFTER, pool[at.LRU_TAIL]] = s
    pool[at.LRU_TAIL] = s


@compiled
def take(pool: Ints, replica: Ints, count: int, cache: Table, seg: Table) -> None:
    """Take blocks that are known to be there, dropping the least recently used cached segments where needed."""
    while pool[at.FREE] < count:
        s = pool[at.LRU_HEAD]
        lru_remove(pool, cache, s)
        cache[at.SEG_USERS, s] = at.NONE
        pool[at.CACHED] -= seg[at.SEG_BLOCKS, s]
        pool[at.FREE] += seg[at.SEG_BLOCKS, s]
    pool[at.FREE] -= count
    used = replica[at.BLOCKS] - pool[at.FREE] - pool[at.CACHED]
    replica[at.PEAK] = max(replica[at.PEAK], used)


@compiled
def lookup(q: Ints, replica: Ints, chain: Ints, cache: Table, seg: Table, found: Ints) -> None:
    """Cached head of a prompt's chain of segments. found: segments, tokens that need no computing, their blocks, and
    how many of these blocks nobody else uses (they count as available until they are taken)."""
    found[0] = 0
    found[1] = 0
    found[2] = 0
    found[3] = 0
    if replica[at.PREFIX] == 0:
        return
    for p in range(chain.size):
        s = chain[p]
        if cache[at.SEG_USERS, s] == at.NONE:
            break
        found[0] += 1
        found[1] = seg[at.SEG_END, s]
        found[2] += seg[at.SEG_BLOCKS, s]
        if cache[at.SEG_USERS, s] == 0:
            found[3] += seg[at.SEG_BLOCKS, s]
    if found[0] > 0:
        block = replica[at.BLOCK]
        # the last token of a prompt is always computed: its output is the first new token
        found[1] = min(found[1] // block * block, (q[at.TARGET] - 1) // block * block)


@compiled
def hold(q: Ints, pool: Ints, chain: Ints, count: int, cache: Table, seg: Table) -> None:
    """Use the first `count` segments, all of them cached."""
    for p in range(count):
        s = chain[p]
        if cache[at.SEG_USERS, s] == 0:
            lru_remove(pool, cache, s)
            pool[at.CACHED] -= seg[at.SEG_BLOCKS, s]
        cache[at.SEG_USERS, s] += 1
        q[at.SHARED] += seg[at.SEG_BLOCKS, s]
    q[at.REFS] = count


@compiled
def publish(q: Ints, chain: Ints, cache: Table, seg: Table) -> None:
    """Make the rest of the prompt's chain findable. Stops at a segment that somebody else has put there since."""
    for p in range(q[at.REFS], chain.size):
        s = chain[p]
        if cache[at.SEG_USERS, s] != at.NONE:
            break
        cache[at.SEG_USERS, s] = 1
        q[at.SHARED] += seg[at.SEG_BLOCKS, s]
        q[at.REFS] += 1


@compiled
def give_back(q: Ints, pool: Ints, tokens: int, block: int, chain: Ints, cache: Table, seg: Table) -> None:
    """Own blocks become free; segments nobody uses any more stay cached, deeper ones are the first to go."""
    pool[at.FREE] += blocks_of(tokens, block) - q[at.SHARED]
    for p in range(q[at.REFS] - 1, -1, -1):
        s = chain[p]
        cache[at.SEG_USERS, s] -= 1
        if cache[at.SEG_USERS, s] == 0:
            lru_append(pool, cache, s)
            pool[at.CACHED] += seg[at.SEG_BLOCKS, s]
    q[at.REFS] = 0
    q[at.SHARED] = 0


@compiled
def leave_behind(q: Ints, pool: Ints, own: int, chain: Ints, cache: Table, seg: Table) -> None:
    """The finished sequence as a segment for the next turn of its session. Call after `give_back`, which freed its
    blocks, with q[at.HIT] untouched; skipped where an earlier part of the session is not cached."""
    if own == at.NONE or cache[at.SEG_USERS, own] != at.NONE or seg[at.SEG_BLOCKS, own] > pool[at.FREE]:
        return
    for p in range(chain.size):
        if cache[at.SEG_USERS, chain[p]] == at.NONE:
            return
    pool[at.FREE] -= seg[at.SEG_BLOCKS, own]
    pool[at.CACHED] += seg[at.SEG_BLOCKS, own]
    cache[at.SEG_USERS, own] = 0
    lru_append(pool, cache, own)
    for p in range(chain.size - 1, -1, -1):  # the older turns are used together with it: they go last
        s = chain[p]
        if cache[at.SEG_USERS, s] == 0:
            lru_remove(pool, cache, s)
            lru_append(pool, cache, s)


@compiled
def tokens_held(q: Ints, clock: int, state_is_decode: bool) -> int:
    """Tokens whose at.KV blocks a running request holds: a prompt holds all of its blocks from its admission on."""
    if state_is_decode:
        return int(q[at.KV] + clock - q[at.JOIN])
    return int(q[at.TARGET])


@compiled
def heap_push(heap: Ints, keys: Ints, size: int, records: Table, position: int, item: int, key: int) -> None:
    i = size
    while i > 0:
        up = (i - 1) >> 1
        if keys[up] <= key:
            break
        heap[i] = heap[up]
        keys[i] = keys[up]
        records[heap[i], position] = i
        i = up
    heap[i] = item
    keys[i] = key
    records[item, position] = i


@compiled
def heap_remove(heap: Ints, keys: Ints, size: int, records: Table, position: int, index: int) -> None:
    """Remove the entry at `index` of a heap of `size` entries."""
    last = size - 1
    if index == last:
        return
    item, key = heap[last], keys[last]
    i = index
    while i > 0 and keys[(i - 1) >> 1] > key:
        up = (i - 1) >> 1
        heap[i] = heap[up]
        keys[i] = keys[up]
        records[heap[i], position] = i
        i = up
    while True:
        child = 2 * i + 1
        if child >= last:
            break
        if child + 1 < last and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        heap[i] = heap[child]
        keys[i] = keys[child]
        records[heap[i], position] = i
        i = child
    heap[i] = item
    keys[i] = key
    records[item, position] = i
