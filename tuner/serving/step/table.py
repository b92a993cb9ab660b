"""The step table: latency of one engine iteration of one replica, as small grids.

An iteration separates exactly into parts (checked against the table package's whole-step calls):

    pure decode, g sequences of mean KV length k      decode(g) + decode_attention(g, k)
    c context tokens in b prompts, g decodes          context(c + g (1 + d)) + context_attention(b, c / b, past)
                                                      + decode_attention(g, k) where g > 0

`d` is `draft_tokens`: a decode that proposes d tokens computes 1 + d. The decode grids count sequences and hold it.

All grids are per attention-data-parallel rank; `k`, `new` and `past` are tokens. `k` and
`past` are in the KV cache when the iteration starts; that a decode attends to itself, too, the grid holds. With
pipeline stages a value is the time through all stages. Between knots values are linear in each argument; below the
first knot the first value holds; above the last the last slope goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from controlplane.model.plans import Provenance
from tuner.serving.case import EngineCase

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StepTable:
    """Grids in ms. Every axis is float64, strictly increasing, at least two knots long."""

    context_tokens: Floats  # [T]
    context_ms: Floats  # [T] everything but attention, an iteration with context tokens
    decode_sequences: Floats  # [G]
    decode_ms: Floats  # [G] everything but attention, a pure decode iteration
    context_attention_batch: Floats  # [B]
    context_attention_new: Floats  # [N] new tokens of each prompt
    context_attention_past: Floats  # [P] tokens of each prompt already in the KV cache
    context_attention_ms: Floats  # [B, N, P]
    decode_attention_sequences: Floats  # [S]
    decode_attention_kv: Floats  # [K]
    decode_attention_ms: Floats  # [S, K]
    provenance: Provenance
    draft_tokens: int = 0  # d above


class StepModel(Protocol):
    """A source of step tables."""

    def table(self, case: EngineCase) -> StepTable:
        """Raises Unsupported with the field at fault where this source has nothing for the case."""
        ...
