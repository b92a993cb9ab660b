"""A source of step times with kernel switches, whose every value is known in closed form."""

from dataclasses import dataclass


@dataclass
class FakeParts:
    """`asked` counts the shapes, `fails_at` raises where a table would be missing."""

    asked: int = 0
    fails_at: int | None = None

    def context_ms(self, tokens: int) -> float:
        self._ask(tokens)
        return 4.0 + 0.004 * tokens + (1.5 if tokens > 640 else 0.0)

    def decode_ms(self, sequences: int) -> float:
        self._ask(sequences)
        return 4.0 + 0.01 * sequences + (0.5 if sequences > 96 else 0.0)

    def context_attention_ms(self, batch: int, new: int, past: int) -> float:
        self._ask(batch * new)
        return 0.05 + 1e-8 * batch * new * (new / 2 + past)

    def decode_attention_ms(self, sequences: int, kv: int) -> float:
        self._ask(sequences)
        return 0.05 + 2e-7 * sequences * kv

    def _ask(self, size: int) -> None:
        self.asked += 1
        if self.fails_at is not None and size >= self.fails_at:
            raise RuntimeError("perf database error: nothing measured here")
