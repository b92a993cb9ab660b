"""Model shapes: the numbers that memory, compute and communication are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from controlplane.catalog.facts import Sourced

Attention = Literal["mha", "gqa", "mla"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434). `q_lora_rank` None: queries are not compressed.

    The `index_*` numbers belong to DeepSeek sparse attention (a small scorer that picks the keys to attend to).
    """

    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    index_heads: int | None = None
    index_head_dim: int | None = None
    index_topk: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """Routed experts. `ffn` is the width of one expert; layers before `dense_layers_first` have a plain FFN."""

    experts: int
    experts_per_token: int
    ffn: int
    shared_experts: int = 0
    shared_ffn: int | None = None  # width of one shared expert where it differs from `ffn`
    shared_gate: bool = False
    dense_layers_first: int = 0
    router_bias: bool = False
    expert_bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """Gated delta-net layers (Qwen3-Next, Qwen3.5): all layers but each `full_attention_every`-th have no KV cache."""

    full_attention_every: int
    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindow:
    """Layers that keep only the last `tokens` of KV: all but each `global_every`-th. `global_every` None: all layers."""

    tokens: int
    global_every: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape(Sourced):
    """One model. `published_*` are the publisher's own counts; `params.py` computes them from the shape."""

    name: str
    family: str
    hf_repo: str | None = None
    aliases: tuple[str, ...] = ()  # other repository ids of the same shape
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int | None  # None when every layer is a MoE layer
    vocab: int
    attention: Attention
    gated_ffn: bool = True  # gate, up and down projections; otherwise up and down
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    gated_attention: bool = False  # the query projection also makes an output gate of the same size
    qk_norm: Literal["head", "all"] | None = None  # one norm per head dimension, or over all heads
    attention_sinks: bool = False
    norm_biases: bool = False  # LayerNorm with bias instead of RMSNorm
    norms_per_layer: int = 2
    learned_positions: int | None = None  # size of a learned position table
    embedding_dim: int | None = None  # where token embeddings are narrower than `hidden` and projected
    mla: Mla | None = None
    moe: Moe | None = None
    linear: LinearAttention | None = None
    sliding_window: SlidingWindow | None = None
    max_context_tokens: int | None = None
    checkpoint_dtype: str | None = None
    published_parameters: int | None = None
    published_active_parameters: int | None = None
    notes: str | None = None

    @property
    def is_moe(self) -> bool:
        """Whether some layers route tokens to experts."""
        return self.moe is not None
