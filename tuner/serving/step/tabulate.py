"""A step table from a source of exactly separable parts, by asking it as few shapes as the error allows.

The allowance of attention is a share of the whole iteration it belongs to, not of attention: attention that is 2 % of
an iteration may be off by 2 % of itself. `docs/step-model.md` states the error this leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from controlplane.model.plans import Provenance
from tuner.serving.step.knots import Function, Line, geometric, refined
from tuner.serving.step.source import StepParts
from tuner.serving.step.table import Floats, StepTable

TABULATION = 1  # part of the key of tables on disk: raise it when knots or their meaning change

MOST_TOKENS = 200_000  # last knot of the token axes; the last slope goes on above it
MOST_SEQUENCES = 1_024
MOST_PROMPTS = 512
_MOST_BATCH_TOKENS = 400_000  # context attention of larger batches: the largest asked one, scaled by the batch

_REST_SHARE = 4e-4  # distance from a straight line that is let pass, as a share of the iteration
_ATTENTION_SHARE = 2e-3
# most knots per axis: what the build time and the size on disk bear
_REST_KNOTS = 400
_SEQUENCE_KNOTS = 56
_KV_KNOTS = 64
_BATCH_KNOTS = 14
_NEW_KNOTS = 56
_PAST_KNOTS = 24


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


def tabulate(parts: StepParts, provenance: Provenance, *, draft_tokens: int = 0) -> StepTable:
    """The table of `parts`. Passes on what asking them raises."""
    asked = _Asked(parts)
    tokens = _refined_rest(asked.context, MOST_TOKENS)
    sequences = _refined_rest(asked.decode, MOST_SEQUENCES)
    attention_sequences, kv, decode_attention = _decode_attention(asked)
    batch, new, past, context_attention = _context_attention(asked)
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


def _refined_rest(value: Function, last: int) -> list[int]:
    return refined([(value, value)], geometric(1, last, 1.5), share=_REST_SHARE, most=_REST_KNOTS)


def _decode_attention(asked: _Asked) -> tuple[list[int], list[int], Floats]:
    part = asked.decode_attention

    def along_sequences(kv: int) -> Line:
        return lambda g: part(g, kv), lambda g: asked.step(g, kv)

    def along_kv(sequences: int) -> Line:
        return lambda k: part(sequences, k), lambda k: asked.step(sequences, k)

    sequences = _refined_attention(
        [along_sequences(k) for k in (300, 2_000, 9_000, 60_000)], [], MOST_SEQUENCES, _SEQUENCE_KNOTS
    )
    kv = _refined_attention([along_kv(g) for g in (1, 24, 64, 300)], [], MOST_TOKENS, _KV_KNOTS)
    return sequences, kv, np.array([[part(g, k) for k in kv] for g in sequences])


def _context_attention(asked: _Asked) -> tuple[list[int], list[int], list[int], Floats]:
    part, step = asked.context_attention, asked.prefill

    def along_new(batch: int, past: int) -> Line:
        return lambda n: part(batch, n, past), lambda n: step(batch, n, past)

    def along_past(batch: int, new: int) -> Line:
        return lambda p: part(batch, new, p), lambda p: step(batch, new, p)

    def along_batch(new: int, past: int) -> Line:
        return lambda b: part(b, new, past), lambda b: step(b, new, past)

    shapes = ((1, 0), (1, 3_000), (1, 60_000), (6, 0), (6, 3_000))
    new = _refined_attention([along_new(*shape) for shape in shapes], [], MOST_TOKENS, _NEW_KNOTS)
    shapes = ((1, 20), (1, 512), (1, 3_000), (6, 500), (24, 100))
    past = _refined_attention([along_past(*shape) for shape in shapes], [0], MOST_TOKENS, _PAST_KNOTS)
    shapes = ((20, 0), (100, 0), (100, 5_000), (1_000, 0), (1_000, 1_000))
    batch = _refined_attention([along_batch(*shape) for shape in shapes], [], MOST_PROMPTS, _BATCH_KNOTS)
    out = np.empty((len(batch), len(new), len(past)))
    for j, n in enumerate(new):
        last = max(i for i, b in enumerate(batch) if i == 0 or b * n <= _MOST_BATCH_TOKENS)
        for i, b in enumerate(batch):
            if i <= last:
                out[i, j] = [part(b, n, p) for p in past]
            else:
                out[i, j] = out[last, j] * (b / batch[last])
    return batch, new, past, out


def _refined_attention(lines: list[Line], first: list[int], last: int, most: int) -> list[int]:
    return refined(lines, [*first, *geometric(1, last, 2.0)], share=_ATTENTION_SHARE, most=most)
