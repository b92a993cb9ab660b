"""The oracle's scheduler: what one rank runs in one pipeline slot, and what comes out of it."""

from __future__ import annotations

import math

from tuner.serving.replay.fleet import Replica
from tuner.serving.replay.reference_memory import Live, Rank
from tuner.serving.replay.reference_table import step_ms


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
