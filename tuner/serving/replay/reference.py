"""The replay's rules in plain Python: the oracle that the compiled loop is tested against.

One iteration after another, one request after another, everything counted afresh: slow, and meant to be read. What a
rule means is decided here. It shares with the compiled loop the types of its arguments and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tuner.serving.replay.fleet import Fleet, Replica
from tuner.serving.replay.pack import draws_of
from tuner.serving.replay.reference_table import step_ms
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


class Seat:
    """What one rank runs in one lane."""

    def __init__(self, engine: Replica, rank: Rank, lane: int) -> None:
        self.engine = engine
        self.rank = rank
        self.lane = lane
        self.members = rank.running[lane]
        self.decode_steps = 0
        self.share = engine.rules.output_share
        self.advance = 0  # tokens that decoding requests make in the iteration under way

    def decoding(self) -> list[Live]:
        return [live for live in self.members if live.decoding]

    def prompts(self) -> list[Live]:
        return [live for live in self.members if not live.decoding]

    def to_come(self, live: Live) -> int:
        return 0 if self.engine.role == "prefill" else live.osl - live.made

    def blocks_at_end(self, live: Live) -> int:
        return self.rank.blocks(live.isl + (0 if self.engine.role == "prefill" else live.osl))

    # -- putting an iteration together

    def plan(self, now: float) -> float | None:
        """Choose who takes part; the iteration's length in s, None for nothing to do."""
        rules, engine = self.engine.rules, self.engine
        self.advance = 0
        preempted = False
        for live in self.members:
            live.chunk = 0
        if rules.mixed and self.decoding():
            preempted = self.make_room()
        budget = (
            rules.token_budget - len(self.decoding()) * (1 + engine.draft_tokens)
            if rules.mixed
            else rules.prefill_budget
        )
        for live in self.prompts():
            if budget <= 0:
                break
            live.chunk = min(live.target - live.computed, budget, rules.long_prompt_tokens or budget)
            budget -= live.chunk
        if not preempted:
            self.admit(budget, now)
        scheduled = [live for live in self.members if live.chunk > 0]
        if not scheduled and self.decoding() and self.advance == 0:
            preempted = self.make_room() or preempted
        decodes = self.decoding() if self.advance > 0 else []
        if not decodes:
            self.advance = 0
        if not scheduled and not decodes:
            return self.plan(now) if preempted else None
        if decodes:
            self.decode_steps += 1
            self.share = max(rules.output_share_floor, self.share - rules.output_share_decay)
        time_ms = step_ms(
            engine.table, context=sum(live.chunk for live in scheduled), prompts=len(scheduled),
            past=sum(live.computed for live in scheduled), decodes=len(decodes),
            tokens_each=1 + engine.draft_tokens, kv=sum(live.kv for live in decodes),
        )  # fmt: skip
        host_ms = engine.host_step_ms + engine.host_sequence_ms * (len(scheduled) + len(decodes))
        return (max(time_ms, host_ms) if rules.host_overlapped else time_ms + host_ms) * 1e-3

    def make_room(self) -> bool:
        """KV blocks for what every decoding request makes next; whether somebody had to give way."""
        rate = 1.0 + self.engine.accepted_tokens
        s = self.decode_steps
        self.advance = math.floor((s + 1) * rate + 1e-9) - math.floor(s * rate + 1e-9)
        preempted = False
        while True:
            more = sum(self.rank.blocks(live.kv + self.advance) - self.rank.blocks(live.kv) for live in self.decoding())
            if more <= self.rank.available():
                break
            least = max(live.rank_class for live in self.members)
            self.preempt([live for live in self.members if live.rank_class == least][-1])
            self.share = self.engine.rules.output_share
            preempted = True
        for live in self.decoding():
            live.room = live.kv + self.advance
        self.rank.make_true()
        return preempted

    def preempt(self, live: Live) -> None:
        self.members.remove(live)
        self.rank.drop(live)
        live.decoding = False
        live.target = live.isl + live.made
        live.computed = live.chunk = 0
        live.preemptions += 1
        self.rank.waiting[live.rank_class].insert(0, live)

    def admit(self, budget: int, now: float) -> None:
        rules, rank = self.engine.rules, self.rank
        lanes = self.engine.pipeline_stages
        places = min(rules.max_sequences, -(-rank.assigned // lanes)) if lanes > 1 else rules.max_sequences
        while budget > 0 and len(self.members) < places and any(rank.waiting):
            queue = next(queue for queue in rank.waiting if queue)
            live = queue[0]
            if live.computed == live.target:  # its KV came over the link
                ahead = self.advance
                if not self.fits(live, [], 0, rank.blocks(live.target + ahead)):
                    break
                queue.pop(0)
                live.kv, live.room, live.decoding = live.target, live.target + ahead, True
                live.first_s = min(live.first_s, now)
                budget -= 1 + self.engine.draft_tokens if rules.mixed else 0
            else:
                head = rank.cached_head(live)
                hit = 0
                if head:
                    end = int(rank.segments.segment_ends[head[-1]])
                    hit = min(end // rank.block, (live.target - 1) // rank.block) * rank.block
                chunk = self.first_chunk(live.target - hit, budget)
                need = rank.blocks(live.target) - sum(rank.segment_blocks(s) for s in head)
                if chunk == 0 or not self.fits(live, head, hit, need):
                    break
                queue.pop(0)
                rank.use(live, head)
                live.room = live.target
                live.computed, live.chunk = hit, chunk
                live.hit_tokens += hit
                budget -= chunk
            self.members.append(live)
            live.scheduled_s = min(live.scheduled_s, now)
            rank.make_true()
            if rules.prefix_caching and rules.prefix_visible == "admission" and not live.decoding:
                rank.publish(live)

    def first_chunk(self, new: int, budget: int) -> int:
        rules = self.engine.rules
        scheduled = [live for live in self.members if live.chunk > 0]
        if not rules.chunked:
            largest = rules.token_budget if rules.mixed else rules.prefill_budget
            return new if new <= budget or (not scheduled and new > largest) else 0
        chunk = min(new, budget, rules.long_prompt_tokens or budget)
        partial = sum(live.computed + live.chunk < live.target for live in scheduled)
        if chunk < new and rules.max_partial_prefills and partial >= rules.max_partial_prefills:
            return 0
        return chunk

    def fits(self, live: Live, head: list[int], hit: int, need: int) -> bool:
        rules, rank = self.engine.rules, self.rank
        others = rank.everybody()
        available = rank.available() - sum(rank.segment_blocks(s) for s in head if rank.users[s] == 0)
        if others and self.engine.kv_blocks is not None:
            available -= int(rules.watermark * rank.total)
        if need > available:
            return False
        if rules.admission == "prompt-and-output":
            return sum(self.blocks_at_end(other) for other in [*others, live]) <= rank.total
        if rules.admission == "prompt-and-output-share" and others:
            wanted = live.target - hit + self.to_come(live)
            wanted += sum(self.to_come(other) for other in others if not other.decoding)
            share = self.share * sum(self.to_come(other) for other in others if other.decoding)
            return wanted + share <= available * rank.block
        return True

    # -- its end

    def finish(self, now: float) -> tuple[list[Live], list[Live]]:
        """(requests that are done, prompts to be handed over)"""
        done: list[Live] = []
        handed: list[Live] = []
        decodes = self.decoding() if self.advance > 0 else []
        computed = [live for live in self.members if live.chunk > 0]
        for live in decodes:
            live.made += self.advance
            live.kv += self.advance
        # overshoot of drafted tokens tells who was done first
        done += sorted((live for live in decodes if live.made >= live.osl), key=lambda o: (o.osl - o.made, o.index))
        for live in computed:
            live.computed += live.chunk
            live.chunk = 0
        for live in done:
            self.retire(live)
        for live in computed:
            if live.computed < live.target:
                continue
            live.made += 1
            if self.engine.rules.prefix_caching and self.engine.rules.prefix_visible == "prefill":
                self.rank.publish(live)
            if live.made >= live.osl:
                live.first_s = min(live.first_s, now)
                done.append(live)
                self.retire(live)
            elif self.engine.role == "prefill":
                self.members.remove(live)
                self.rank.assigned -= 1
                self.rank.held.append(live)
                handed.append(live)
            else:
                live.first_s = min(live.first_s, now)
                live.kv, live.decoding = live.target, True
        for live in done:
            live.done_s = now
        self.advance = 0
        if not self.members:
            self.share = self.engine.rules.output_share
        return done, handed

    def retire(self, live: Live) -> None:
        self.members.remove(live)
        self.rank.assigned -= 1
        self.rank.drop(live)
        if self.engine.rules.prefix_caching:
            self.rank.leave_behind(live)


@dataclass(slots=True, eq=False)
class Lane:
    seats: list[Seat]
    at_s: float = NEVER  # end of the iteration under way, or when to look for work
    busy: bool = False


class Engine:
    """One replica: ranks in lock-step, a lane for each pipeline stage."""

    def __init__(self, replica: Replica, requests: Requests, classes: int) -> None:
        self.replica = replica
        self.ranks = [Rank(replica, requests, classes, replica.pipeline_stages) for _ in range(replica.attention_ranks)]
        self.lanes = [
            Lane([Seat(replica, rank, lane) for rank in self.ranks]) for lane in range(replica.pipeline_stages)
        ]
        self.coming: list[Live] = []  # on their way to this replica
        self.load: list[Live] = []  # sent here and not yet through
        self.link_free_s = 0.0
        self.stage_free_s = 0.0
        self.iterations = 0
        self.phase_s = {"prefill": 0.0, "mixed": 0.0, "decode": 0.0}
        self.context_tokens = 0
        self.decode_tokens = 0

    def enqueue(self, live: Live, when: float) -> None:
        live.entry_s = when
        self.coming.append(live)
        self.coming.sort(key=lambda other: other.entry_s)  # stable: equal times stay in order
        self.load.append(live)
        self.wake(when)

    def wake(self, when: float) -> None:
        for lane in self.lanes:
            if not lane.busy:
                lane.at_s = min(lane.at_s, when)

    def release(self, now: float) -> None:
        for rank in self.ranks:
            for live in [live for live in rank.held if live.entry_s <= now]:
                rank.held.remove(live)
                rank.drop(live)

    def receive(self, now: float, engines: list[Engine]) -> list[Live]:
        """Those that have arrived join the queue of the rank with the fewest; returns those that never fit."""
        rules = self.replica.rules
        refused: list[Live] = []
        while self.coming and self.coming[0].entry_s <= now:
            live = self.coming.pop(0)
            if live.transferred:
                engines[live.replica].release(now)
            budget = rules.token_budget if rules.mixed else rules.prefill_budget
            too_long = not rules.chunked and not live.transferred and live.isl > budget
            if too_long or self.lanes[0].seats[0].blocks_at_end(live) > self.ranks[0].total:
                live.refused = True
                self.load.remove(live)
                refused.append(live)
                continue
            rank = min(self.ranks, key=lambda rank: rank.assigned)
            rank.assigned += 1
            live.target = live.isl
            live.computed = live.isl if live.transferred else 0
            rank.waiting[live.rank_class].append(live)
        return refused


class Oracle:
    """Replays requests against a fleet; `lives` holds what became of each."""

    def __init__(self, fleet: Fleet, requests: Requests, *, seed: int = 0) -> None:
        self.fleet = fleet
        self.requests = requests
        looks = requests.priority is not None and any(replica.rules.priorities for replica in fleet.replicas)
        known = sorted(set(requests.priority.tolist())) if requests.priority is not None and looks else [0]
        self.engines = [Engine(replica, requests, len(known)) for replica in fleet.replicas]
        self.front = [e for e in self.engines if e.replica.role != "decode"]
        self.decoders = [e for e in self.engines if e.replica.role == "decode"]
        self.draws = draws_of(len(requests), seed)
        self.turns = [0, 0]
        self.lives = [self._live(i, known if looks else None) for i in range(len(requests))]

    def _live(self, i: int, known: list[int] | None) -> Live:
        r = self.requests
        chain: list[int] = []
        if r.segment_offsets is not None:
            chain = r.segment_ids[r.segment_offsets[i] : r.segment_offsets[i + 1]].tolist()
        own = None if r.own_segment is None or r.own_segment[i] < 0 else int(r.own_segment[i])
        group = None if r.group is None or r.group[i] < 0 else int(r.group[i])
        rank_class = 0 if known is None or r.priority is None else known.index(int(r.priority[i]))
        return Live(i, int(r.isl[i]), int(r.osl[i]), rank_class, chain, own, group)

    def choose(self, live: Live, *, decode: bool) -> Engine:
        candidates = self.decoders if decode else self.front
        policy = self.fleet.decode_router if decode else self.fleet.router
        n = len(candidates)
        if n == 1:
            return candidates[0]
        if policy == "random":
            return candidates[min(int(self.draws[live.index, int(decode)] * n), n - 1)]
        if policy == "round-robin":
            self.turns[decode] += 1
            return candidates[(self.turns[decode] - 1) % n]
        if policy == "prefix-affinity" and live.group is not None:
            home = candidates[(live.group * 2654435761 & 0xFFFFFFFF) % n]
            if len(home.load) * n <= 1.25 * sum(len(engine.load) for engine in candidates) + 4 * n:
                return home
        if policy == "kv-aware":
            return min(candidates, key=lambda engine: self.tokens_ahead(engine, live) / engine.replica.weight)
        return min(candidates, key=lambda engine: (len(engine.load) + 1) / engine.replica.weight)

    def tokens_ahead(self, engine: Engine, live: Live) -> float:
        heads = [rank.cached_head(live) for rank in engine.ranks]
        cached = max((int(self.requests.segment_ends[head[-1]]) for head in heads if head), default=0)
        return float(sum(other.isl for other in engine.load) + live.isl - cached)

    def issue(self, live: Live, now: float) -> None:
        live.issued_s = now
        engine = self.choose(live, decode=False)
        live.replica = self.engines.index(engine)
        engine.enqueue(live, now + engine.replica.request_ms * 1e-3)

    def hand_over(self, live: Live, engine: Engine, now: float) -> None:
        link = self.fleet.link
        if link is None:
            raise AssertionError("a fleet with prefill replicas has a link")
        engine.load.remove(live)
        engine.link_free_s = max(engine.link_free_s, now) + live.isl * link.bytes_per_token / link.bytes_per_s
        live.transferred = True
        decoder = self.choose(live, decode=True)
        live.decoder = self.engines.index(decoder)
        decoder.enqueue(live, engine.link_free_s + link.latency_s)

    def run(self) -> None:
        waiting = list(self.lives)  # to be issued
        over = 0
        due = min(self.requests.clients or 0, len(waiting))
        now = 0.0
        while over < len(self.lives):
            for _ in range(due):
                self.issue(waiting.pop(0), now)
            due = 0
            lanes = [(lane.at_s, e, k) for e, engine in enumerate(self.engines) for k, lane in enumerate(engine.lanes)]
            soonest, e, k = min(lanes)
            if self.requests.clients is None and waiting:
                arrival = float(self.requests.arrival_s[waiting[0].index])
                if arrival <= soonest:
                    self.issue(waiting.pop(0), arrival)
                    continue
            if soonest == NEVER:
                raise AssertionError("nobody can go on")
            now = soonest
            engine, lane = self.engines[e], self.engines[e].lanes[k]
            if lane.busy:
                gone = self.end(engine, lane, now)
                over += gone
                if self.requests.clients is not None and gone > 0 and waiting:
                    due = min(gone, len(waiting))
                    continue  # clients send their next requests before anything else happens
            gone = self.begin(engine, lane, now)
            over += gone
            if self.requests.clients is not None:
                due = min(gone, len(waiting))

    def end(self, engine: Engine, lane: Lane, now: float) -> int:
        """The lane's iteration ends. Returns how many requests are done."""
        lane.busy = False
        gone = 0
        for seat in lane.seats:
            engine.context_tokens += sum(live.chunk for live in seat.members)
            engine.decode_tokens += seat.advance * len(seat.decoding())
            done, handed = seat.finish(now)
            for live in done:
                engine.load.remove(live)
            for live in handed:
                self.hand_over(live, engine, now)
            gone += len(done)
        engine.wake(now)
        return gone

    def begin(self, engine: Engine, lane: Lane, now: float) -> int:
        """The lane's next iteration begins, if there is work and the first stage is free. Returns how many requests
        were refused; the lane is then looked at again."""
        if len(engine.lanes) > 1 and engine.stage_free_s > now:
            lane.at_s = engine.stage_free_s
            return 0
        engine.release(now)
        refused = engine.receive(now, self.engines)
        if not refused:
            self.start(engine, lane, now)
        return len(refused)

    def start(self, engine: Engine, lane: Lane, now: float) -> None:
        lane.at_s = NEVER
        lengths = [
            length for seat in lane.seats if seat.members or any(seat.rank.waiting)
            if (length := seat.plan(now)) is not None
        ]  # fmt: skip
        if lengths:
            length = max(lengths)
            lane.busy, lane.at_s = True, now + length
            engine.stage_free_s = now + length / len(engine.lanes)
            engine.iterations += 1
            context = any(live.chunk > 0 for seat in lane.seats for live in seat.members)
            decode = any(seat.advance > 0 for seat in lane.seats)
            phase = "mixed" if context and decode else "prefill" if context else "decode"
            engine.phase_s[phase] += length / len(engine.lanes)
            return
        if engine.coming:
            lane.at_s = engine.coming[0].entry_s
        held = [live.entry_s for rank in engine.ranks for live in rank.held]
        if held:
            lane.at_s = min(lane.at_s, *held)


def simulate_slowly(fleet: Fleet, requests: Requests, *, seed: int = 0) -> Oracle:
    oracle = Oracle(fleet, requests, seed=seed)
    oracle.run()
    return oracle
