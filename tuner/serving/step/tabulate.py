"""A step table from a source of exactly separable parts, by asking it as few shapes as the error allows.

The allowance of attention is a share of the whole iteration it belongs to, not of attention: attention that is 2 % of
an iteration may be off by 2 % of itself. `docs/step-model.md` states the error this leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from controlplane.model.plans import Provenance
from tuner.serving.step.knots import Function, Line, geometric, refined
from tuner.serving.step.source import StepParts
from tuner.serving.step.table import Floats, StepTable

MOST_TOKENS = 200_000  # last knot of the token axes; the last slope goes on above it
MOST_SEQUENCES = 1_024
MOST_PROMPTS = 512

# Measured tables end about here; beyond, a source extrapolates, which is smooth but slow to ask (26-240 us a shape
# against 2-3 us inside), so knots are not refined there.
_MEASURED_TOKENS = 16_384  # batch x new, and past
_MEASURED_BATCH_TOKENS = 98_304  # batch x (new + past)
_MEASURED_DECODE_TOKENS = 4_000_000  # sequences x kv
# Shapes that no iteration has: not asked, but scaled from the largest batch that was
_MOST_BATCH_NEW = 32_768
_MOST_BATCH_KV = 4_000_000
_MOST_DECODE_KV = 16_000_000

# distance from a straight line that is let pass, as a share of the iteration
_REST_SHARE = 4e-4
_ATTENTION_SHARE = 1e-3
_CLOSEST = 1.04  # jumps of attention are met to 4 % of the length they happen at


@dataclass(frozen=True, slots=True)
class Knots:
    """Most knots per axis: what the build time and the size on disk bear."""

    rest: int = 400
    sequences: int = 32
    kv: int = 48
    batch: int = 28
    new: int = 144
    past: int = 24


USUAL = Knots()
# sparse attention is slow to ask at any shape (about 110 us)
SLOW = Knots(batch=14, new=60, past=18)


class _Asked:
    """The parts, each shape asked once, and the time of the iterations they belong to."""

    def __init__(self, parts: StepParts) -> None:
        self.context = cache(parts.context_ms)
        self.decode = cache(parts.decode_ms)
        self.context_attention = cache(parts.context_attention_ms)
        self.decode_attention = cache(parts.decode_attention_ms)

    def prefill(self, batch: int, new: int, past: int) -> float:
        return self.context(batch * new) + self.context_attention(batch, new, past)

    def step(self, sequences: int, kv: int) -> float:
        return self.decode(sequences) + self.decode_attention(sequences, kv)


def tabulate(parts: StepParts, provenance: Provenance, *, draft_tokens: int = 0, knots: Knots = USUAL) -> StepTable:
    """The table of `parts`. Passes on what asking them raises."""
    asked = _Asked(parts)
    tokens = _refined_rest(asked.context, MOST_TOKENS, knots)
    sequences = _refined_rest(asked.decode, MOST_SEQUENCES, knots)
    attention_sequences, kv, decode_attention = _decode_attention(asked, knots)
    batch, new, past, context_attention = _context_attention(asked, knots)
    return StepTable(
        context_tokens=_axis(tokens),
        context_ms=np.array([asked.context(t) for t in tokens]),
        decode_sequences=_axis(sequences),
        decode_ms=np.array([asked.decode(g) for g in sequences]),
        context_attention_batch=_axis(batch),
        context_attention_new=_axis(new),
        context_attention_past=_axis(past),
        context_attention_ms=context_attention,
        decode_attention_sequences=_axis(attention_sequences),
        decode_attention_kv=_axis(kv),
        decode_attention_ms=decode_attention,
        provenance=provenance,
        draft_tokens=draft_tokens,
    )


def _axis(knots: Sequence[int]) -> Floats:
    return np.array(knots, dtype=np.float64)


def _refined_rest(value: Function, last: int, most: Knots) -> list[int]:
    line = Line(value, value, last)
    return refined([line], geometric(1, last, 1.5), share=_REST_SHARE, most=most.rest)


def _decode_attention(asked: _Asked, most: Knots) -> tuple[list[int], list[int], Floats]:
    part = asked.decode_attention

    def along_sequences(kv: int) -> Line:
        last = _MEASURED_DECODE_TOKENS // kv
        return Line(lambda g: part(g, kv), lambda g: asked.step(g, kv), last)

    def along_kv(sequences: int) -> Line:
        last = _MEASURED_DECODE_TOKENS // sequences
        return Line(lambda k: part(sequences, k), lambda k: asked.step(sequences, k), last)

    sequences = _refined_attention(
        [along_sequences(k) for k in (300, 1_500, 5_000, 20_000)], geometric(1, MOST_SEQUENCES, 2.0), most.sequences
    )
    kv = _refined_attention([along_kv(g) for g in (6, 24, 64, 300)], geometric(1, MOST_TOKENS, 2.0), most.kv)
    out = np.empty((len(sequences), len(kv)))
    for j, k in enumerate(kv):
        last = max(i for i, g in enumerate(sequences) if i == 0 or g * k <= _MOST_DECODE_KV)
        for i, g in enumerate(sequences):
            out[i, j] = part(g, k) if i <= last else out[last, j] * (g / sequences[last])
    return sequences, kv, out


def _context_attention(asked: _Asked, most: Knots) -> tuple[list[int], list[int], list[int], Floats]:
    part, step = asked.context_attention, asked.prefill

    def along_new(batch: int, past: int) -> Line:
        last = _MEASURED_TOKENS // batch
        return Line(lambda n: part(batch, n, past), lambda n: step(batch, n, past), last)

    def along_past(batch: int, new: int) -> Line:
        last = _MEASURED_TOKENS // batch
        return Line(lambda p: part(batch, new, p), lambda p: step(batch, new, p), last)

    def along_batch(new: int, past: int) -> Line:
        return Line(lambda b: part(b, new, past), lambda b: step(b, new, past), _MEASURED_TOKENS // new)

    # time grows with the square of `new`: beyond the measured range its knots must be closer than those of the rest
    first = [*geometric(1, _MEASURED_TOKENS, 2.0), *geometric(_MEASURED_TOKENS, MOST_TOKENS, 1.3)]
    shapes = ((1, 0), (1, 1_000), (1, 8_000), (2, 0), (3, 0), (6, 0), (6, 1_000), (16, 0))
    new = _refined_attention([along_new(*shape) for shape in shapes], first, most.new)
    first = [0, 1, *geometric(16, 1_024, 4.0), *geometric(1_024, MOST_TOKENS, 2.0)]
    beside = ((1, 20), (1, 512), (1, 3_000), (6, 500))
    past = _refined_attention([along_past(*shape) for shape in beside], first, most.past)
    coarse = geometric(1, MOST_PROMPTS, 4.0)
    within = ((20, 0), (100, 0), (100, 1_000), (300, 0), (1_000, 0), (1_000, 1_000))
    batch = _refined_attention([along_batch(*shape) for shape in within], coarse, most.batch)
    out = np.empty((len(batch), len(new), len(past)))
    for j, n in enumerate(new):
        for m, p in enumerate(past):
            out[:, j, m] = _over_batches(part, batch, coarse, n, p)
    return batch, new, past, out


def _over_batches(
    part: Callable[[int, int, int], float], batch: list[int], coarse: list[int], new: int, past: int
) -> Floats:
    """One value per batch: asked where it was measured and at coarse knots, straight lines between those, and in
    proportion to the batch above the last."""
    asked = [
        b
        for b in batch
        if b == 1
        or b * (new + past) <= _MEASURED_BATCH_TOKENS
        or (b in coarse and b * new <= _MOST_BATCH_NEW and b * (new + past) <= _MOST_BATCH_KV)
    ]
    values = np.interp(batch, asked, [part(b, new, past) for b in asked])
    above = np.array(batch, dtype=np.float64) / asked[-1]
    return np.asarray(np.where(above > 1.0, values * above, values), dtype=np.float64)


def _refined_attention(lines: list[Line], first: list[int], most: int) -> list[int]:
    return refined(lines, first, share=_ATTENTION_SHARE, most=most, closest=_CLOSEST)
