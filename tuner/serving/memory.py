"""Memory of one rank: what weights, activations, runtime and collectives take, and what is left for the KV cache.

Engines reserve differently. vLLM and SGLang use a fraction of the device's total for everything (`KV = f x capacity -
rest`), TensorRT-LLM a fraction of what is free after the rest (`KV = f x (capacity - rest)`). Real engines do not keep
to any model exactly, so a prediction carries these numbers as a warning; the planner takes them as a limit.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from controlplane.catalog import ModelShape, load
from controlplane.catalog.params import (
    count_parameters,
    full_attention_layers,
    kv_bytes_of_request,
)
from controlplane.model.errors import InvalidSpec
from tuner.serving.case import EngineCase
from tuner.serving.step.roofline_formats import Formats, resolve_formats

_DATA = Path(__file__).parent / "data" / "memory.json"
_WIDE_BYTES = 2.0  # embeddings, output head, norms and routers stay in 16 bits
_STATE_BYTES = 4.0  # linear attention keeps its state in 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """Bytes on the fullest rank. `capacity_bytes` and what follows from it are None where the size is unknown."""

    capacity_bytes: int | None
    weight_bytes: int
    activation_bytes: int
    runtime_bytes: int
    collective_bytes: int
    kv_bytes: int | None  # room for the KV cache; never negative
    kv_bytes_per_token: float  # of a sequence of `sequence_tokens`: full windows stop growing
    state_bytes_per_sequence: float  # of layers with linear attention
    block_tokens: int
    missing_bytes: int  # what the engine lacks to hold its weights and a single block; 0 when it starts

    @property
    def fixed_bytes(self) -> int:
        """Everything but the KV cache."""
        return self.weight_bytes + self.activation_bytes + self.runtime_bytes + self.collective_bytes

    @property
    def fits(self) -> bool | None:
        """Whether the engine starts at all. None: the device's memory is unknown."""
        return None if self.capacity_bytes is None else self.missing_bytes == 0

    @property
    def kv_tokens(self) -> int | None:
        """Tokens the KV cache holds in sequences of that length."""
        return None if self.kv_bytes is None else int(self.kv_bytes // self.kv_bytes_per_token)

    def kv_blocks(self, tolerance: float = 0.0) -> int | None:
        """Whole blocks, a share of the tokens kept back."""
        tokens = self.kv_tokens
        return None if tokens is None else math.floor(tokens * (1.0 - tolerance) / self.block_tokens)

    def warning(self) -> str | None:
        """One sentence with the numbers where the engine would not start."""
        if self.capacity_bytes is None or self.missing_bytes == 0:
            return None
        return (
            f"memory: {_gb(self.fixed_bytes)} of weights, activations and runtime on each of its ranks leave no room "
            f"in {_gb(self.capacity_bytes)}; {_gb(self.missing_bytes)} are missing"
        )


def memory_budget(
    case: EngineCase,
    *,
    max_num_tokens: int = 8192,
    fraction: float | None = None,
    block_tokens: int | None = None,
    sequence_tokens: int = 8192,
    capacity_bytes: int | None = None,
) -> MemoryBudget:
    """Memory of one rank of this engine with iterations of at most `max_num_tokens`. `fraction` is the engine's own
    setting (vLLM gpu_memory_utilization, SGLang mem_fraction_static, TensorRT-LLM free_gpu_memory_fraction).
    `sequence_tokens` decides how much of a windowed layer's cache a token costs. `capacity_bytes`: the device's memory
    where it is known better than from the catalogue (a container's limit, a driver's report).

    Raises UnknownName, InvalidSpec or Unsupported.
    """
    catalog = load()
    model = catalog.model(case.model, field="model")
    accelerator = catalog.accelerator(case.accelerator, field="system")
    facts = _facts()
    engine = facts["engines"][case.engine]
    share = engine["fraction"] if fraction is None else fraction
    if not 0.0 < share <= 1.0:
        raise InvalidSpec("not a share", field="knobs.memory_fraction", value=share, limit="above 0, at most 1")
    formats = resolve_formats(
        model, accelerator, case.engine, gemm=case.gemm_quant, moe=case.moe_quant, kv=case.kv_quant
    )
    capacity = accelerator.plannable_memory_bytes if capacity_bytes is None else capacity_bytes
    runtime = facts["runtime_bytes"] * engine["runtime_factor"]
    if capacity is not None:
        runtime = min(runtime, facts["runtime_most_share"]["value"] * capacity)
    weights = int(_weight_bytes(case, model, formats))
    activations = int(_activation_bytes(case, model, max_num_tokens) * engine["activation_factor"])
    collectives = int(_by_degree(facts["collective_bytes"], case.tensor_parallel))
    if accelerator.kind == "cpu":
        collectives = 0
    fixed = weights + activations + int(runtime) + collectives
    if sequence_tokens < 1:
        raise InvalidSpec("not a length", field="sequence_tokens", value=sequence_tokens, limit=">= 1")
    per_token = _sequence_kv_bytes(case, model, formats, sequence_tokens) / sequence_tokens
    block = block_tokens or facts["block_tokens"][case.engine]
    room: float | None = None
    missing = 0.0
    if capacity is not None:
        room = share * (capacity - fixed) if engine["of"] == "free" else share * capacity - fixed
        missing = max(0.0, block * per_token - room)
    return MemoryBudget(
        capacity_bytes=capacity,
        weight_bytes=weights,
        activation_bytes=activations,
        runtime_bytes=int(runtime),
        collective_bytes=collectives,
        kv_bytes=None if room is None else max(0, int(room)),
        kv_bytes_per_token=per_token,
        state_bytes_per_sequence=_state_bytes(case, model),
        block_tokens=block,
        missing_bytes=math.ceil(missing),
    )


def request_kv_bytes(case: EngineCase, tokens: int) -> float:
    """KV and state bytes that one sequence of this length takes on one rank; full windows stop growing."""
    catalog = load()
    model = catalog.model(case.model, field="model")
    accelerator = catalog.accelerator(case.accelerator, field="system")
    formats = resolve_formats(
        model, accelerator, case.engine, gemm=case.gemm_quant, moe=case.moe_quant, kv=case.kv_quant
    )
    return _sequence_kv_bytes(case, model, formats, tokens) + _state_bytes(case, model)


def _sequence_kv_bytes(case: EngineCase, model: ModelShape, formats: Formats, tokens: int) -> float:
    """KV bytes of one sequence on one rank. Heads are split over tensor parallel ranks and repeated where there are
    fewer than ranks, as the latent of MLA always is."""
    heads = 1 if model.mla is not None else model.kv_heads
    share = max(1, heads // case.tensor_parallel) / heads / case.pipeline_parallel
    return kv_bytes_of_request(model, tokens, formats.kv_bytes) * share


def _weight_bytes(case: EngineCase, model: ModelShape, formats: Formats) -> float:
    """Attention, feed-forward and shared experts split over tensor parallel ranks, routed experts over all ranks that
    share them; norms and the down-projections of latent attention are whole on every rank."""
    count = count_parameters(model)
    tp = case.tensor_parallel
    router = 0.0
    if model.moe is not None:
        router = float((model.layers - model.moe.dense_layers_first) * model.hidden * model.moe.experts)
    repeated = 0.0
    if model.mla is not None:
        down = model.mla.kv_lora_rank + model.mla.qk_rope_head_dim + (model.mla.q_lora_rank or 0)
        repeated = float(full_attention_layers(model) * model.hidden * down)
    dense = count.attention - repeated + count.dense_ffn + count.shared_and_router - router
    split = (dense * formats.gemm.bytes_per_weight + count.embedding * _WIDE_BYTES) / tp
    whole = repeated * formats.gemm.bytes_per_weight + (count.norms + router) * _WIDE_BYTES
    experts = count.experts * formats.moe.bytes_per_weight / (case.moe_tensor_parallel * case.moe_expert_parallel)
    return (split + whole + experts) / case.pipeline_parallel


def _activation_bytes(case: EngineCase, model: ModelShape, tokens: int) -> float:
    facts = _facts()
    table = facts["activation_hidden_vectors"]["moe" if model.moe is not None else "dense"]
    total = 2.0 * tokens * model.hidden * _by_degree(table, case.tensor_parallel)
    if model.moe is not None and model.mla is not None:  # scales of the dispatched rows, 32 bits per block
        rows = tokens * case.attention_data_parallel * model.moe.experts * model.moe.experts_per_token
        total += rows * model.hidden / case.moe_expert_parallel / facts["expert_scale_block"] * 4.0
    return max(total, float(facts["least_activation_bytes"]))


def _state_bytes(case: EngineCase, model: ModelShape) -> float:
    """State of one sequence in the layers with linear attention, one rank."""
    linear = model.linear
    if linear is None:
        return 0.0
    layers = (model.layers - full_attention_layers(model)) / case.pipeline_parallel
    state = linear.value_heads * linear.value_head_dim * linear.key_head_dim * _STATE_BYTES
    keys, values = linear.key_heads * linear.key_head_dim, linear.value_heads * linear.value_head_dim
    convolution = (2 * keys + values) * (linear.conv_kernel - 1) * _WIDE_BYTES
    return layers * (state + convolution) / case.tensor_parallel


def _by_degree(table: dict[str, float], degree: int) -> float:
    """Value of the largest listed degree that is not above this one."""
    return table[max((key for key in table if int(key) <= degree), key=int)]


def _gb(value: int) -> str:
    return f"{value / 1e9:.1f} GB"


@cache
def _facts() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(_DATA.read_bytes())
    return loaded
