"""The replay's rules in plain Python: the oracle that the compiled loop is tested against.

One iteration after another, one request after another, everything counted afresh: slow, and meant to be read. What a
rule means is decided here, in `reference_seat` and in `reference_memory`. It shares with the compiled loop the types of
its arguments and the random numbers of the routers, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuner.serving.replay.fleet import Fleet, Replica
from tuner.serving.replay.pack import draws_of
from tuner.serving.replay.reference_memory import NEVER, Live, Rank
from tuner.serving.replay.reference_seat import Seat
from tuner.serving.replay.requests import Requests


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
        self.entry_free_s = 0.0  # when the front-end has read the prompts sent so far
        self.last_start_s = 0.0
        self.since_receive = 0  # decode iterations
        self.waited = 0
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

    def seen_until(self, now: float) -> float:
        """Requests that came up to this time join the queue now; -1: nobody does."""
        rules = self.replica.rules
        if len(self.lanes) > 1:
            return now
        seats = self.lanes[0].seats
        if not any(seat.members for seat in seats):
            self.since_receive = self.waited = 0
            return now
        if rules.receive_every > 1:
            if self.since_receive < rules.receive_every:
                return -1.0
            self.since_receive = 0
        seen = self.last_start_s if rules.planned_ahead else now
        decodes = [len(seat.decoding()) for seat in seats]
        waits = rules.wait_iterations if any(decodes) else 0
        balances = rules.balance_iterations if all(decodes) else 0
        if waits or balances:
            come = [live.isl for live in self.coming if live.entry_s <= seen]
            few = sum(come) + sum(decodes) < rules.wait_tokens and self.waited < waits
            uneven = len(come) < len(seats) and self.waited < balances
            if come and (few or uneven):
                self.waited += 1
                return -1.0
            self.waited = 0
        return seen

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
        read = max(engine.entry_free_s, now) + live.isl * (engine.replica.entry_token_ms * 1e-3)
        engine.entry_free_s = read
        engine.enqueue(live, read + engine.replica.request_ms * 1e-3)

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
        refused = []
        if engine.coming or engine.replica.rules.receive_every > 1:
            refused = engine.receive(engine.seen_until(now), self.engines)
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
            engine.last_start_s = now
            engine.since_receive += engine.replica.rules.receive_every if context else 1
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
