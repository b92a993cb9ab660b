"""All of a step but attention, by operator: projections, feed-forward, experts, norms, collectives, output head.

Every function takes the tokens of one attention-data-parallel rank's iteration as an array and returns ms on the
slowest rank. Shapes follow the public implementations: tensor parallelism splits heads and feed-forward columns, so
each layer ends its attention and its feed-forward with one all-reduce; experts are split over `moe_tensor_parallel`
and spread over `moe_expert_parallel`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlplane.catalog import ModelShape
from controlplane.catalog.models import LinearAttention, Mla, Moe
from controlplane.catalog.params import full_attention_layers
from tuner.serving.case import EngineCase
from tuner.serving.step.roofline_formats import WEIGHT_FORMATS, Formats
from tuner.serving.step.roofline_hardware import Hardware, constants
from tuner.serving.step.roofline_links import Links
from tuner.serving.step.table import Floats

_WIDE = WEIGHT_FORMATS["bfloat16"]
_ACTIVATION_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine's ranks: what runs, on what, how it is split."""

    case: EngineCase
    model: ModelShape
    hardware: Hardware
    links: Links
    formats: Formats
    tensor: int  # ranks that split a layer; 1 on a CPU, where cores share one process

    def rest_ms(self, tokens: Floats, *, decode: bool) -> Floats:
        """Everything but attention of an iteration with `tokens` new tokens on this rank."""
        model = self.model
        full = full_attention_layers(model)
        total = full * self._projections_ms(tokens, decode=decode)
        if model.linear is not None:
            total = total + (model.layers - full) * self._linear_ms(tokens, model.linear, decode=decode)
        moe_layers = 0 if model.moe is None else model.layers - model.moe.dense_layers_first
        total = total + (model.layers - moe_layers) * self._dense_ms(tokens, model.ffn or 0)
        if model.moe is not None:
            total = total + moe_layers * self._moe_ms(tokens, model.moe)
        norms = model.norms_per_layer * model.layers + 1
        hidden_bytes = tokens * model.hidden * _ACTIVATION_BYTES
        total = total + norms * self.hardware.traffic_ms(4.0 * hidden_bytes)  # residual and sum, in and out
        total = total + self._ends_ms(tokens, decode=decode)
        stages = self.case.pipeline_parallel
        if stages > 1:
            near = self.tensor * self.case.attention_data_parallel * stages <= self.links.per_domain
            total = total + (stages - 1) * self.links.send_ms(hidden_bytes / self.tensor, near=near)
        return total

    def _projections_ms(self, tokens: Floats, *, decode: bool) -> Floats:
        """Query, key, value and output projections of one attention layer, all-reduce."""
        model, tp, form = self.model, self.tensor, self.formats.gemm
        if model.mla is not None:
            return self._latent_projections_ms(tokens, model.mla, decode=decode) + self._all_reduce_ms(tokens)
        queries = model.heads * model.head_dim / tp
        keys = max(1.0, model.kv_heads / tp) * model.head_dim
        made = queries * (2 if model.gated_attention else 1) + 2 * keys
        total = self.hardware.gemm_ms(tokens, model.hidden, made, form)
        return total + self.hardware.gemm_ms(tokens, queries, model.hidden, form) + self._all_reduce_ms(tokens)

    def _latent_projections_ms(self, tokens: Floats, mla: Mla, *, decode: bool) -> Floats:
        """Latent attention: down-projections are repeated on every rank, up-projections split by heads. A decode
        multiplies queries and results with the up-projections instead (absorbed form)."""
        model, hardware, form = self.model, self.hardware, self.formats.gemm
        heads = model.heads / self.tensor
        query = mla.qk_nope_head_dim + mla.qk_rope_head_dim
        down = mla.kv_lora_rank + mla.qk_rope_head_dim + (mla.q_lora_rank or 0)
        total = hardware.gemm_ms(tokens, model.hidden, down, form)
        total = total + hardware.gemm_ms(tokens, mla.q_lora_rank or model.hidden, heads * query, form)
        total = total + hardware.traffic_ms(2.0 * tokens * (down + heads * query) * _ACTIVATION_BYTES, 2.0)
        if decode or mla.index_topk is not None:
            rows = tokens * heads
            absorbed = np.full_like(tokens, heads)
            for inner, outer in ((mla.qk_nope_head_dim, mla.kv_lora_rank), (mla.kv_lora_rank, mla.v_head_dim)):
                total = total + hardware.grouped_gemm_ms(rows, absorbed, inner, outer, _WIDE, 0.0)
        else:
            up = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
            total = total + hardware.gemm_ms(tokens, mla.kv_lora_rank, up, form)
        if mla.index_heads is not None and mla.index_head_dim is not None:
            index = mla.index_heads * mla.index_head_dim
            total = total + hardware.gemm_ms(tokens, mla.q_lora_rank or model.hidden, index, form)
            total = total + hardware.gemm_ms(tokens, model.hidden, mla.index_head_dim + mla.index_heads, form)
        return total + hardware.gemm_ms(tokens, heads * mla.v_head_dim, model.hidden, form)

    def _linear_ms(self, tokens: Floats, linear: LinearAttention, *, decode: bool) -> Floats:
        """A gated delta-net layer: its cost does not depend on the context, so all of it stands here."""
        model, hardware, tp, form = self.model, self.hardware, self.tensor, self.formats.gemm
        keys = linear.key_heads * linear.key_head_dim / tp
        values = linear.value_heads * linear.value_head_dim / tp
        total = hardware.gemm_ms(tokens, model.hidden, 2 * keys + 2 * values + 2 * linear.value_heads / tp, form)
        total = total + hardware.traffic_ms(2.0 * tokens * (2 * keys + values) * _ACTIVATION_BYTES)  # convolution
        state = values * linear.key_head_dim
        if decode:  # each sequence's state, 32 bits, read and written
            total = total + hardware.traffic_ms(2.0 * tokens * state * 4.0)
        else:  # chunked form (Gated Delta Networks, arXiv 2412.06464): about six products with the state per token
            moved = tokens * (2 * keys + 2 * values) * 3 * _ACTIVATION_BYTES
            total = total + hardware.attention_ms(12.0 * tokens * state, moved, decode=False)
        total = total + hardware.traffic_ms(3.0 * tokens * values * _ACTIVATION_BYTES)  # gated norm
        return total + hardware.gemm_ms(tokens, values, model.hidden, form) + self._all_reduce_ms(tokens)

    def _dense_ms(self, tokens: Floats, width: float) -> Floats:
        if width <= 0:
            return np.zeros_like(tokens)
        return self._ffn_ms(tokens, width) + self._all_reduce_ms(tokens)

    def _ffn_ms(self, tokens: Floats, width: float) -> Floats:
        """Gate, up and down projections of one feed-forward block, split over the tensor parallel ranks."""
        hidden, share = self.model.hidden, width / self.tensor
        ins = 2 if self.model.gated_ffn else 1
        total = self.hardware.gemm_ms(tokens, hidden, ins * share, self.formats.gemm)
        total = total + self.hardware.traffic_ms(tokens * (ins + 1) * share * _ACTIVATION_BYTES)
        return total + self.hardware.gemm_ms(tokens, share, hidden, self.formats.gemm)

    def _moe_ms(self, tokens: Floats, moe: Moe) -> Floats:
        """Router, routed experts, shared experts, and the exchange between ranks."""
        model, hardware, form = self.model, self.hardware, self.formats.moe
        hidden, wide = model.hidden, float(moe.experts)
        dp, split, spread = (
            self.case.attention_data_parallel,
            self.case.moe_tensor_parallel,
            self.case.moe_expert_parallel,
        )
        total = hardware.gemm_ms(tokens, hidden, wide, _WIDE) + hardware.traffic_ms(tokens * wide * 8.0, 3.0)
        everyone = tokens * dp
        imbalance = constants()["expert_imbalance"]["value"] if spread > 1 else 1.0
        rows = everyone * moe.experts_per_token / spread * imbalance
        touched = np.minimum(experts_touched(everyone, moe) / spread * imbalance, wide / spread)
        width = moe.ffn / split
        ins = 2 if model.gated_ffn else 1
        tile = constants()["expert_tile_tokens"]["value"]
        total = total + hardware.grouped_gemm_ms(rows, touched, hidden, ins * width, form, tile)
        total = total + hardware.traffic_ms(rows * (ins + 1) * width * _ACTIVATION_BYTES)
        total = total + hardware.grouped_gemm_ms(rows, touched, width, hidden, form, tile)
        total = total + hardware.traffic_ms(rows * 2.0 * hidden * _ACTIVATION_BYTES, 2.0)  # gather and weighted sum
        if moe.shared_experts:
            total = total + self._ffn_ms(tokens, float(moe.shared_experts * (moe.shared_ffn or moe.ffn)))
        return total + self._exchange_ms(tokens, moe)

    def _exchange_ms(self, tokens: Floats, moe: Moe) -> Floats:
        """Tokens to their experts and back. Without attention data parallelism every rank already has every token, so
        one all-reduce is enough; with it tokens are sent (experts spread) or gathered and scattered (experts split).
        """
        dp, spread = self.case.attention_data_parallel, self.case.moe_expert_parallel
        if dp == 1:
            return self._all_reduce_ms(tokens)
        ranks = dp * self.tensor
        hidden_bytes = tokens * self.model.hidden * _ACTIVATION_BYTES
        if spread == ranks:
            copies = min(moe.experts_per_token, spread) / self.tensor
            sent = hidden_bytes * copies
            to = self.links.all_to_all_ms(sent * self.formats.moe.activation_bytes / _ACTIVATION_BYTES, ranks)
            return to + self.links.all_to_all_ms(sent, ranks) + self._all_reduce_ms(tokens) / 2
        return 2.0 * self.links.all_gather_ms(hidden_bytes * dp, ranks)

    def _ends_ms(self, tokens: Floats, *, decode: bool) -> Floats:
        """Embedding and output head. In an iteration with context tokens only the last one of each prompt reaches the
        head, whose time is that of reading its weights."""
        model, hardware = self.model, self.hardware
        rows = tokens if decode else np.minimum(tokens, 1.0)
        width = model.embedding_dim or model.hidden
        total = hardware.traffic_ms(tokens * model.hidden * 2.0 * _ACTIVATION_BYTES)
        total = total + hardware.gemm_ms(rows, width, model.vocab / self.tensor, _WIDE)
        return total + self.links.all_gather_ms(rows * model.vocab * _ACTIVATION_BYTES, self.tensor)

    def _all_reduce_ms(self, tokens: Floats) -> Floats:
        return self.links.all_reduce_ms(tokens * self.model.hidden * _ACTIVATION_BYTES, self.tensor)


def experts_touched(tokens: Floats, moe: Moe) -> Floats:
    """Expected number of distinct experts that `tokens` tokens choose: `E (1 - (1 - k/E)^tokens)`."""
    share = moe.experts_per_token / moe.experts
    if share >= 1.0:
        return np.full_like(tokens, float(moe.experts))
    touched: Floats = -moe.experts * np.expm1(tokens * np.log1p(-share))
    return touched
