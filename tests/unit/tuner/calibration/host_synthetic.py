"""An engine in a few lines with known costs, and what its clients see."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tuner.serving.calibration.host_streams import Stream

ENTRY_MS = 1.5  # between a client's send and the queue
CONTEXT_MS = (2.0, 0.05)  # of an iteration with prompts: fixed, per token
DECODE_MS = (3.0, 0.4)  # of a pure decode: fixed, per sequence
PAIR_MS = 2e-5
KV_MS = 4e-4
BETWEEN_EVENTS_MS = 0.02


@dataclass(slots=True)
class _Live:
    prompt: int
    output: int
    issued_s: float
    past: int = 0
    token_s: list[float] = field(default_factory=list)


def step_ms(context: int, pairs: float, decodes: int, kv: int) -> float:
    """One iteration: `context` tokens of prompts beside `decodes` sequences."""
    if context:
        fixed, each = CONTEXT_MS
        return fixed + each * (context + decodes) + PAIR_MS * pairs + KV_MS * kv
    fixed, each = DECODE_MS
    return fixed + each * decodes + KV_MS * kv


def play(count: int, clients: int, *, budget: int, chunked: bool, seed: int, noise: float = 0.0) -> list[Stream]:
    """A closed loop of `clients`; `noise` is the standard deviation of an iteration's time, as a share of it."""
    chooser = random.Random(seed)
    waiting = [_Live(chooser.randint(32, 256), chooser.randint(8, 48), 0.0) for _ in range(count)]
    open_, running, done = [waiting.pop(0) for _ in range(clients)], [], []
    now_s = ENTRY_MS / 1e3
    while open_ or running:
        entered = [one for one in open_ if one.issued_s + ENTRY_MS / 1e3 <= now_s + 1e-12]
        if not entered and not running:
            now_s = min(one.issued_s for one in open_) + ENTRY_MS / 1e3
            continue
        decoding = [] if entered and not chunked else running
        room = budget - len(decoding)
        context, pairs = 0, 0.0
        first = []
        for one in entered:
            take = min(room, one.prompt - one.past)
            if not chunked and take < one.prompt:
                break
            pairs += take * (one.past + take / 2)
            one.past += take
            room -= take
            context += take
            if one.past == one.prompt:
                first.append(one)
        kv = sum(one.prompt + len(one.token_s) for one in decoding)
        now_s += step_ms(context, pairs, len(decoding), kv) / 1e3 * max(0.2, chooser.gauss(1.0, noise))
        seen_s = now_s
        for one in [*decoding, *first]:
            one.token_s.append(seen_s)
            seen_s += BETWEEN_EVENTS_MS / 1e3
        for one in first:
            open_.remove(one)
            running.append(one)
        for one in [one for one in running if len(one.token_s) == one.output]:
            running.remove(one)
            done.append(one)
            if waiting:
                following = waiting.pop(0)
                following.issued_s = one.token_s[-1]
                open_.append(following)
    return [Stream(one.issued_s, one.prompt, tuple(one.token_s)) for one in done]
