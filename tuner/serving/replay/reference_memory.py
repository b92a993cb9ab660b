"""The oracle's requests and KV memory: blocks, prefix cache, queue of one rank, all counted afresh when asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tuner.serving.replay.fleet import Replica
from tuner.serving.replay.requests import Requests

NEVER = math.inf
UNLIMITED_BLOCKS = 1 << 40


@dataclass(slots=True, eq=False)
class Live:
    """A request on its way through the fleet."""

    index: int
    isl: int
    osl: int
    rank_class: int
    chain: list[int]
    own_segment: int | None
    group: int | None
    made: int = 0  # tokens given out
    target: int = 0  # prompt tokens to compute, after a preemption with the tokens made so far
    computed: int = 0
    chunk: int = 0  # of the iteration under way
    kv: int = 0  # tokens in the KV cache, while it decodes
    room: int = 0  # tokens that it holds KV blocks for
    shared: list[int] = field(default_factory=list)  # cached segments it uses
    decoding: bool = False
    transferred: bool = False
    refused: bool = False
    issued_s: float = NEVER
    entry_s: float = NEVER
    scheduled_s: float = NEVER
    first_s: float = NEVER
    done_s: float = NEVER
    replica: int = -1
    decoder: int = -1
    preemptions: int = 0
    hit_tokens: int = 0


class Rank:
    """One attention-data-parallel rank: its KV memory, its prefix cache, its queue."""

    def __init__(self, engine: Replica, requests: Requests, classes: int, lanes: int) -> None:
        self.engine = engine
        self.block = engine.rules.block_tokens
        self.total = UNLIMITED_BLOCKS if engine.kv_blocks is None else engine.kv_blocks
        self.segments = requests
        self.waiting: list[list[Live]] = [[] for _ in range(classes)]
        self.running: list[list[Live]] = [[] for _ in range(lanes)]  # by lane, in order of admission
        self.held: list[Live] = []  # prompts whose KV is being transferred
        self.users: dict[int, int] = {}  # cached segment -> requests that use it; least recently used first
        self.assigned = 0
        self.peak = 0

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.block)

    def segment_blocks(self, s: int) -> int:
        parent = int(self.segments.segment_parents[s])
        begin = int(self.segments.segment_ends[parent]) if parent >= 0 else 0
        return int(self.segments.segment_ends[s]) // self.block - begin // self.block

    def own_blocks(self, live: Live) -> int:
        return self.blocks(live.room) - sum(self.segment_blocks(s) for s in live.shared)

    def everybody(self) -> list[Live]:
        return [live for lane in self.running for live in lane]

    def in_use(self) -> int:
        own = sum(self.own_blocks(live) for live in self.everybody() + self.held)
        return own + sum(self.segment_blocks(s) for s, users in self.users.items() if users > 0)

    def available(self) -> int:
        """Blocks that are free or hold a cached segment that nobody uses."""
        return self.total - self.in_use()

    def make_true(self) -> None:
        """Drop the least recently used segments until what is held fits, and note the peak."""
        used = self.in_use()
        idle = [s for s, users in self.users.items() if users == 0]
        cached = sum(self.segment_blocks(s) for s in idle)
        while used + cached > self.total:
            s = idle.pop(0)
            cached -= self.segment_blocks(s)
            del self.users[s]
        self.peak = max(self.peak, used)

    def cached_head(self, live: Live) -> list[int]:
        head: list[int] = []
        if self.engine.rules.prefix_caching:
            for s in live.chain:
                if s not in self.users:
                    break
                head.append(s)
        return head

    def use(self, live: Live, head: list[int]) -> None:
        for s in head:
            self.users[s] += 1
        live.shared = list(head)

    def publish(self, live: Live) -> None:
        for s in live.chain[len(live.shared) :]:
            if s in self.users:
                break
            self.users[s] = 1
            live.shared.append(s)

    def drop(self, live: Live) -> None:
        """Give back everything; deeper segments count as longer unused than those before them."""
        for s in reversed(live.shared):
            self.users[s] -= 1
            if self.users[s] == 0:
                self.touch(s)
        live.shared = []
        live.room = 0

    def touch(self, s: int) -> None:
        self.users[s] = self.users.pop(s)

    def leave_behind(self, live: Live) -> None:
        """The finished sequence stays cached for the next turn of its session, if all before it is."""
        own = live.own_segment
        free = self.available() - sum(self.segment_blocks(s) for s, users in self.users.items() if users == 0)
        if own is None or own in self.users or any(s not in self.users for s in live.chain):
            return
        if self.segment_blocks(own) > free:
            return
        self.users[own] = 0
        for s in reversed(live.chain):
            if self.users[s] == 0:
                self.touch(s)
