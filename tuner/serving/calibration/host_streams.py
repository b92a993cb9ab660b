"""From what a client saw of an engine to the iterations the engine ran.

A streaming engine writes one event per request and iteration. Their times, and the engine's own admission rules, give
back what each iteration held: who decoded, which prompts it computed and how much of them. An interval reaches from
one visible end of an iteration to the next and may hold several iterations (pieces of a prompt that nobody saw end).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tuner.serving.replay.rules import EngineRules

# Events of one iteration come in a burst. A first token later than this belongs to an iteration of its own.
_BURST_MS = 2.5
# A request takes about this long from the client's send to the engine's queue, so it misses an iteration that begins
# earlier. The fit finds the exact value.
_ENTRY_MS = 1.0


@dataclass(frozen=True, slots=True)
class Stream:
    """One request as its client saw it; seconds on one clock. `issued_s`: when it was sent."""

    issued_s: float
    prompt_tokens: int
    token_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Iteration:
    """`context_tokens` of `prompts` prompts beside `decodes` sequences with `decode_kv` tokens in the cache together.
    `context_pairs`: token pairs of the prompts' attention, the sum of new x (past + new / 2)."""

    prompts: int = 0
    context_tokens: int = 0
    context_pairs: float = 0.0
    decodes: int = 0
    decode_kv: int = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """`from_idle`: it begins with the sending of a request to an engine that had nothing to do."""

    duration_ms: float
    iterations: tuple[Iteration, ...]
    from_idle: bool


@dataclass(slots=True)
class _Prompt:
    left: int
    past: int = 0
    lost: bool = False  # what the rules say of it and what was seen disagree


@dataclass(slots=True)
class _Burst:
    """The first event tells when the iteration ended."""

    start_s: float
    only_firsts: bool
    streams: list[int] = field(default_factory=list)


def intervals_of(streams: Sequence[Stream], rules: EngineRules) -> list[Interval]:
    """Intervals whose contents are certain; others are left out. Streams must be all there were."""
    order = sorted(range(len(streams)), key=lambda index: (streams[index].issued_s, index))
    entering = deque(index for index in order if streams[index].token_s)
    waiting: dict[int, _Prompt] = {}
    kv: dict[int, int] = {}
    left: dict[int, int] = {}
    found: list[Interval] = []
    end_s = float("-inf")
    for burst in _bursts(streams, rules):
        begin_s = end_s
        # One sent while the last iteration ran is on its way already, and how far nobody knows.
        from_idle = not waiting and not kv and bool(entering) and streams[entering[0]].issued_s >= end_s
        if from_idle:
            begin_s = streams[entering[0]].issued_s
        entry_s = 0.0 if from_idle else _ENTRY_MS / 1e3
        while entering and streams[entering[0]].issued_s + entry_s <= begin_s:
            index = entering.popleft()
            waiting[index] = _Prompt(streams[index].prompt_tokens)
        firsts = [index for index in burst.streams if index not in kv]
        decoding = [index for index in burst.streams if index in kv]
        late = [index for index in firsts if index not in waiting]
        iterations, certain = _iterations(waiting, firsts, [kv[index] for index in decoding], rules)
        if certain and not late and iterations:
            found.append(Interval((burst.start_s - begin_s) * 1e3, tuple(iterations), from_idle))
        for index in late:  # it came in time all the same, and nobody knows what else did
            entering.remove(index)
            for prompt in waiting.values():
                prompt.lost = True
        for index in firsts:
            waiting.pop(index, None)
            kv[index] = streams[index].prompt_tokens
            left[index] = len(streams[index].token_s)
        for index in burst.streams:
            kv[index] += 1
            left[index] -= 1
            if left[index] == 0:
                del kv[index], left[index]
        end_s = burst.start_s
    return found


def _bursts(streams: Sequence[Stream], rules: EngineRules) -> list[_Burst]:
    """Events by iteration. A running request has one in each, so its next event belongs to the next iteration even
    when it is read late; only where a first token belongs is told by time."""
    events = sorted((time_s, index) for index, stream in enumerate(streams) for time_s in stream.token_s)
    bursts: list[_Burst] = []
    last: dict[int, int] = {}
    for time_s, index in events:
        if index in last:
            at = last[index] + 1
            while not rules.mixed and at < len(bursts) and bursts[at].only_firsts:
                at += 1  # prompts run alone, and those who decode wait
        else:
            at = len(bursts) - 1
            begun = at >= 0 and (time_s - bursts[at].start_s) * 1e3 <= _BURST_MS
            at += not begun or (not rules.mixed and not bursts[at].only_firsts)
        if at == len(bursts):
            bursts.append(_Burst(time_s, only_firsts=True))
        bursts[at].streams.append(index)
        bursts[at].only_firsts &= index not in last
        last[index] = at
    return bursts


def _iterations(
    waiting: dict[int, _Prompt], firsts: list[int], decode_kv: list[int], rules: EngineRules
) -> tuple[list[Iteration], bool]:
    """What ran until `firsts` had their first tokens, and whether it agrees with the rules."""
    decodes, kv = len(decode_kv), sum(decode_kv)
    if not rules.chunked:
        if firsts and decodes:
            return [], False  # prompts run alone: this burst is two iterations that were read together
        new = [waiting[index].left for index in firsts if index in waiting]
        if not new:
            return [Iteration(decodes=decodes, decode_kv=kv)], True
        return [Iteration(len(new), sum(new), sum(n * n / 2 for n in new))], True
    certain = not any(prompt.lost for prompt in waiting.values())
    iterations: list[Iteration] = []
    done: set[int] = set()
    while True:
        room = rules.token_budget - decodes
        prompts = tokens = 0
        pairs = 0.0
        for index, prompt in waiting.items():
            take = min(room, prompt.left)
            if take <= 0:
                continue
            pairs += take * (prompt.past + take / 2)
            prompt.left -= take
            prompt.past += take
            room -= take
            prompts += 1
            tokens += take
            if prompt.left == 0:
                done.add(index)
        iterations.append(Iteration(prompts, tokens, pairs, decodes, kv))
        if decodes or done or not tokens:
            break
    agrees = done == set(firsts)
    for index in done - set(firsts):
        waiting[index].lost = True
    return iterations, certain and agrees
