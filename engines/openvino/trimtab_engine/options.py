"""The engine's settings as the child process receives them. `rules.resolve` makes them from the command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

KV_BLOCK_TOKENS: Final = 32  # measured: OpenVINO GenAI 2026.4's block on a CPU


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Everything is resolved: no "auto" is left. Sizes of cache eviction are in tokens."""

    model: str
    model_format: str
    context_tokens: int
    max_prompt_tokens: int
    max_output_tokens: int
    num_threads: int
    inference_precision: str
    kv_cache_precision: str | None
    max_num_batched_tokens: int
    max_num_seqs: int | None  # None with dynamic split-fuse, where the engine ignores it
    dynamic_split_fuse: bool
    cache_size_gb: int
    num_kv_blocks: int
    enable_prefix_caching: bool
    use_cache_eviction: bool
    cache_eviction_start_tokens: int
    cache_eviction_recent_tokens: int
    cache_eviction_max_tokens: int

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> EngineOptions:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)

    @property
    def kv_capacity_tokens(self) -> int | None:
        """Tokens that the KV cache holds, None when its size is given in bytes (known only after loading)."""
        return self.num_kv_blocks * KV_BLOCK_TOKENS if self.num_kv_blocks else None
