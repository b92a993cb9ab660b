"""Attention over the KV cache, one rank, all layers: context (causal, with past) and decode.

Grouped-query attention reads each KV head once per group; latent attention (MLA) keeps one latent per token, whole on
every rank, and decodes in the absorbed form; sliding windows bound what a layer sees; sparse attention (DSA) scores
all tokens with a small scorer and attends to the best `index_topk`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from controlplane.catalog.models import Mla
from controlplane.catalog.params import full_attention_layers
from tuner.serving.step.roofline_hardware import constants
from tuner.serving.step.roofline_layers import Engine
from tuner.serving.step.table import Floats

_Layer = Callable[[float | None], Floats]  # ms of one layer with this window


def context_attention_ms(engine: Engine, batch: Floats, new: Floats, past: Floats) -> Floats:
    """`batch` prompts compute `new` tokens each, with `past` tokens each in the KV cache."""
    model = engine.model
    if model.mla is not None:
        return full_attention_layers(model) * _latent_context_ms(engine, model.mla, batch, new, past)
    return _over_windows(engine, lambda window: _layer_context_ms(engine, batch, new, past, window))


def decode_attention_ms(engine: Engine, sequences: Floats, kv: Floats) -> Floats:
    """`sequences` decodes with `kv` tokens each in the KV cache."""
    model = engine.model
    queries = 1.0 + engine.case.draft_tokens
    if model.mla is not None:
        return full_attention_layers(model) * _latent_decode_ms(engine, model.mla, sequences, kv + 1.0, queries)

    def layer(window: float | None) -> Floats:
        seen = kv + 1.0 if window is None else np.minimum(kv + 1.0, window)
        heads, kv_heads = _heads(engine)
        flops = 4.0 * sequences * queries * seen * heads * model.head_dim
        moved = sequences * seen * 2.0 * kv_heads * model.head_dim * engine.formats.kv_bytes
        moved = moved + sequences * queries * 2.0 * heads * model.head_dim * 2.0
        return engine.hardware.attention_ms(flops, moved, decode=True)

    return _over_windows(engine, layer)


def _over_windows(engine: Engine, layer_ms: _Layer) -> Floats:
    """Sum over the layers with a window and those without."""
    model = engine.model
    layers = full_attention_layers(model)
    window = model.sliding_window
    if window is None:
        return layers * layer_ms(None)
    unbounded = 0 if window.global_every is None else layers // window.global_every
    total = (layers - unbounded) * layer_ms(float(window.tokens))
    return total + unbounded * layer_ms(None) if unbounded else total


def _layer_context_ms(engine: Engine, batch: Floats, new: Floats, past: Floats, window: float | None) -> Floats:
    model = engine.model
    heads, kv_heads = _heads(engine)
    flops = 4.0 * batch * pairs(new, past, window) * heads * model.head_dim
    seen = new + past if window is None else new + np.minimum(past, window)
    moved = batch * seen * 2.0 * kv_heads * model.head_dim * engine.formats.kv_bytes
    rows = batch * new * (heads + 2.0 * kv_heads) * model.head_dim * 2.0
    total = engine.hardware.attention_ms(flops, moved + rows, decode=False)
    # rotary embedding and the write to the cache, and where queries and keys are normalised one more pass over them
    facts = constants()["attention"]
    passes = facts["rotary_passes"] + (facts["norm_passes"] if model.qk_norm is not None else 0.0)
    kernels = facts["norm_kernels"] if model.qk_norm is not None else 0.0
    return total + engine.hardware.traffic_ms(passes * rows, kernels)


def _latent_context_ms(engine: Engine, mla: Mla, batch: Floats, new: Floats, past: Floats) -> Floats:
    """Prompts attend in the plain form: keys and values of the past are made again from its latents."""
    hardware, heads = engine.hardware, engine.model.heads / engine.tensor
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    if mla.index_topk is not None:
        attended = pairs(new, past, float(mla.index_topk))  # the best of those before, as many as a window
        flops = 2.0 * batch * attended * heads * (latent + mla.kv_lora_rank)
        moved = batch * (new + past) * latent * engine.formats.kv_bytes + batch * new * heads * latent * 4.0
        total = hardware.attention_ms(flops, moved, decode=False)
        return total + _scorer_ms(engine, mla, batch, pairs(new, past, None), new + past)
    wide = mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim
    flops = 2.0 * batch * pairs(new, past, None) * heads * wide
    moved = batch * (new + past) * heads * wide * 2.0 + batch * new * heads * wide * 2.0
    total = hardware.attention_ms(flops, moved, decode=False)
    up = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    again = hardware.gemm_ms(batch * past, mla.kv_lora_rank, up, engine.formats.gemm)
    return total + np.where(past > 0, again, 0.0)


def _latent_decode_ms(engine: Engine, mla: Mla, sequences: Floats, kv: Floats, queries: float) -> Floats:
    heads = engine.model.heads / engine.tensor
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    seen = kv if mla.index_topk is None else np.minimum(kv, float(mla.index_topk))
    flops = 2.0 * sequences * queries * seen * heads * (latent + mla.kv_lora_rank)
    moved = sequences * seen * latent * engine.formats.kv_bytes
    moved = moved + sequences * queries * heads * (latent + mla.kv_lora_rank) * 2.0
    total = engine.hardware.attention_ms(flops, moved, decode=True)
    if mla.index_topk is not None:
        total = total + _scorer_ms(engine, mla, sequences, queries * kv, kv)
    return total


def _scorer_ms(engine: Engine, mla: Mla, batch: Floats, scored: Floats, kept: Floats) -> Floats:
    """DSA's scorer: one small key per token against all its query heads, then the best are picked from 32-bit
    scores. The scorer is not split over ranks."""
    index_heads, dim = mla.index_heads or 0, mla.index_head_dim or 0
    flops = 2.0 * batch * scored * index_heads * dim
    moved = batch * kept * dim + 3.0 * batch * scored * 4.0
    return engine.hardware.attention_ms(flops, moved, decode=False)


def pairs(new: Floats, past: Floats, window: float | None) -> Floats:
    """(query, key) pairs of one prompt's `new` tokens after `past`: each sees what came before it and itself."""
    whole = new * past + new * (new + 1.0) / 2.0
    if window is None:
        return whole
    # a token at position p sees min(p + 1, window)
    growing = np.clip(window - past, 0.0, new)  # tokens that still see everything
    return growing * past + growing * (growing + 1.0) / 2.0 + (new - growing) * window


def _heads(engine: Engine) -> tuple[float, float]:
    """Query and KV heads of one rank; KV heads are repeated where there are fewer than ranks."""
    return engine.model.heads / engine.tensor, max(1.0, engine.model.kv_heads / engine.tensor)
