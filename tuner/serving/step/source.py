"""What a step table is made from: the four exactly separable parts of one engine iteration, one shape at a time."""

from __future__ import annotations

from typing import Protocol


class StepParts(Protocol):
    """Times in ms on one attention-data-parallel rank, through all pipeline stages. Arguments are whole numbers."""

    def context_ms(self, tokens: int) -> float:
        """Everything but attention in an iteration with context tokens; `tokens` counts all of the iteration's."""
        ...

    def decode_ms(self, sequences: int) -> float:
        """Everything but attention in a pure decode iteration."""
        ...

    def context_attention_ms(self, batch: int, new: int, past: int) -> float:
        """Attention of `batch` prompts that each compute `new` tokens with `past` tokens in the KV cache."""
        ...

    def decode_attention_ms(self, sequences: int, kv: int) -> float:
        """Attention of decodes with `kv` tokens each in the KV cache."""
        ...
