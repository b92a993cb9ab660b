"""What follows from a model's shape: parameter counts, weight and KV bytes, which parallel degrees divide. Pure.

Formulas: the tensors of the public implementations, counted one by one (norms and biases included), so that counts
agree with the number of elements in the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.catalog.models import LinearAttention, Mla, ModelShape, Moe
from controlplane.model.errors import InvalidSpec, TrimtabError

# Bytes per weight with the format's own scales: GGUF blocks of 32 weights with one f16 scale (llama.cpp), OCP
# microscaling blocks of 32 with an 8-bit scale, NVFP4 blocks of 16 with an FP8 scale.
BYTES_PER_WEIGHT: dict[str, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "F16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5,
    "mxfp8": 1.0 + 1 / 32,
    "mxfp4": 0.5 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
    "Q8_0": 34 / 32,
    "Q4_0": 18 / 32,
}


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters of a model. `active` are those one token is multiplied with: the top-k experts instead of all, and
    the output matrix but not the input table, from which it only reads a row."""

    embedding: int
    attention: int
    dense_ffn: int
    experts: int
    shared_and_router: int
    norms: int
    active: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.attention + self.dense_ffn + self.experts + self.shared_and_router + self.norms


def count_parameters(model: ModelShape) -> ParameterCount:
    """Parameters from the shape. Multi-token-prediction heads and vision towers are not counted."""
    width = model.embedding_dim or model.hidden
    table = model.vocab * width
    embedding = table * (1 if model.tied_embeddings else 2)
    if width != model.hidden:
        embedding += 2 * width * model.hidden
    if model.learned_positions is not None:
        embedding += model.learned_positions * model.hidden
    full = full_attention_layers(model)
    attention = full * _attention(model)
    if model.linear is not None:
        attention += (model.layers - full) * _linear_attention(model.hidden, model.linear)
    norm = model.hidden * (2 if model.norm_biases else 1)
    norms = norm * (model.norms_per_layer * model.layers + 1)
    moe_layers = 0 if model.moe is None else model.layers - model.moe.dense_layers_first
    dense = (model.layers - moe_layers) * _ffn(model.hidden, model.ffn or 0, model.gated_ffn, model.ffn_bias)
    experts = shared = active_experts = 0
    if model.moe is not None:
        one = _ffn(model.hidden, model.moe.ffn, model.gated_ffn, model.moe.expert_bias)
        experts = moe_layers * model.moe.experts * one
        active_experts = moe_layers * model.moe.experts_per_token * one
        shared = moe_layers * _shared_and_router(model, model.moe)
    return ParameterCount(
        embedding=embedding,
        attention=attention,
        dense_ffn=dense,
        experts=experts,
        shared_and_router=shared,
        norms=norms,
        active=(embedding if model.tied_embeddings else embedding - table)
        + attention
        + dense
        + active_experts
        + shared
        + norms,
    )


def full_attention_layers(model: ModelShape) -> int:
    """Layers with a KV cache that grows with the context (or with its window)."""
    return model.layers if model.linear is None else model.layers // model.linear.full_attention_every


def kv_bytes_per_token_per_layer(model: ModelShape, bytes_per_element: float = 2.0) -> float:
    """KV bytes of one token in one attention layer, all heads: `2 x kv_heads x head_dim`, or for latent attention the
    one latent and its rotary part (plus the scorer's key, where there is one)."""
    if model.mla is not None:
        return (
            model.mla.kv_lora_rank + model.mla.qk_rope_head_dim + (model.mla.index_head_dim or 0)
        ) * bytes_per_element
    return 2 * model.kv_heads * model.head_dim * bytes_per_element


def kv_bytes_per_token(model: ModelShape, bytes_per_element: float = 2.0, tensor_parallel: int = 1) -> float:
    """KV bytes one more token costs on one rank while no window is full.

    Heads are split over tensor parallel ranks; where there are fewer KV heads than ranks (and always for the latent of
    MLA) they are repeated.
    """
    heads = 1 if model.mla is not None else model.kv_heads
    share = max(1, heads // tensor_parallel) / heads
    return full_attention_layers(model) * kv_bytes_per_token_per_layer(model, bytes_per_element) * share


def kv_bytes_of_request(model: ModelShape, tokens: int, bytes_per_element: float = 2.0) -> float:
    """KV bytes of one sequence of this length, all ranks together; windowed layers keep their window only."""
    layers = full_attention_layers(model)
    per_layer = kv_bytes_per_token_per_layer(model, bytes_per_element)
    window = model.sliding_window
    if window is None:
        return layers * per_layer * tokens
    unbounded = 0 if window.global_every is None else layers // window.global_every
    return per_layer * (unbounded * tokens + (layers - unbounded) * min(tokens, window.tokens))


def weight_bytes(model: ModelShape, weight_format: str | None = None) -> float:
    """Bytes of all weights in a format of BYTES_PER_WEIGHT (the checkpoint's own when None). Embeddings and attention
    of MXFP4 and NVFP4 checkpoints usually stay in 16 bits, so this is a lower bound for them. Raises KeyError."""
    return count_parameters(model).total * BYTES_PER_WEIGHT[weight_format or model.checkpoint_dtype or "bf16"]


def weight_bytes_per_rank(
    model: ModelShape,
    weight_format: str | None = None,
    *,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    data_parallel: int = 1,
    expert_parallel: int = 1,
) -> float:
    """Least bytes of weights on the fullest rank when everything splits evenly. Experts are spread over all ranks that
    share attention, whole ones (`expert_parallel`) or slices of each: vLLM's fused_moe config flattens tensor over data
    parallel ranks, SGLang's and TensorRT-LLM's moe_tp x moe_ep is their whole group. The rest is spread over tensor
    parallel ranks; stages share layers."""
    count = count_parameters(model)
    rest = count.total - count.experts
    expert_ranks = tensor_parallel * data_parallel
    share = rest / tensor_parallel + count.experts / expert_ranks
    return share / pipeline_parallel * BYTES_PER_WEIGHT[weight_format or model.checkpoint_dtype or "bf16"]


def check_parallel(
    model: ModelShape,
    *,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    expert_parallel: int = 1,
    field: str = "",
) -> list[TrimtabError]:
    """Degrees that do not divide the model's shape, each with the nearest ones that do."""
    errors: list[TrimtabError] = []

    def refuse(name: str, value: int, what: str, count: int) -> None:
        fits = [degree for degree in range(1, min(count, 512) + 1) if count % degree == 0]
        close = sorted(sorted(fits, key=lambda degree: abs(degree - value))[:3])
        errors.append(
            InvalidSpec(
                f"{value} does not divide the {count} {what} of {model.id}",
                field=f"{field}.{name}".lstrip("."),
                value=value,
                hint=f"nearest that do: {', '.join(map(str, close))}",
            )
        )

    if model.heads % tensor_parallel:
        refuse("tensorParallel", tensor_parallel, "attention heads", model.heads)
    elif model.mla is None and model.kv_heads % tensor_parallel and tensor_parallel % model.kv_heads:
        refuse("tensorParallel", tensor_parallel, "KV heads", model.kv_heads)
    if pipeline_parallel > model.layers:
        errors.append(
            InvalidSpec(
                f"{model.id} has {model.layers} layers",
                field=f"{field}.pipelineParallel".lstrip("."),
                value=pipeline_parallel,
                limit=f"1 to {model.layers}",
            )
        )
    if expert_parallel > 1:
        if model.moe is None:
            errors.append(
                InvalidSpec(
                    f"{model.id} has no experts",
                    field=f"{field}.expertParallel".lstrip("."),
                    value=expert_parallel,
                    limit="1",
                )
            )
        elif model.moe.experts % expert_parallel:
            refuse("expertParallel", expert_parallel, "experts", model.moe.experts)
    return errors


def _attention(model: ModelShape) -> int:
    if model.mla is not None:
        return _latent_attention(model.hidden, model.heads, model.mla)
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    count = model.hidden * queries * (2 if model.gated_attention else 1)
    count += 2 * model.hidden * keys + queries * model.hidden
    count += (queries + 2 * keys if model.qkv_bias else 0) + (model.hidden if model.output_bias else 0)
    count += model.heads if model.attention_sinks else 0
    if model.qk_norm == "head":
        count += 2 * model.head_dim
    elif model.qk_norm == "all":
        count += queries + keys
    return count


def _latent_attention(hidden: int, heads: int, mla: Mla) -> int:
    query_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    if mla.q_lora_rank is None:
        count = hidden * heads * query_dim
    else:
        count = hidden * mla.q_lora_rank + mla.q_lora_rank + mla.q_lora_rank * heads * query_dim
    count += hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim) + mla.kv_lora_rank
    count += mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    count += heads * mla.v_head_dim * hidden
    if mla.index_heads is not None and mla.index_head_dim is not None and mla.q_lora_rank is not None:
        count += mla.q_lora_rank * mla.index_heads * mla.index_head_dim + hidden * mla.index_head_dim
        count += 2 * mla.index_head_dim + hidden * mla.index_heads
    return count


def _linear_attention(hidden: int, linear: LinearAttention) -> int:
    keys = linear.key_heads * linear.key_head_dim
    values = linear.value_heads * linear.value_head_dim
    count = hidden * (2 * keys + 2 * values) + hidden * 2 * linear.value_heads
    count += (2 * keys + values) * linear.conv_kernel + 2 * linear.value_heads
    return count + linear.value_head_dim + values * hidden


def _ffn(hidden: int, width: int, gated: bool, bias: bool) -> int:
    matrices = 3 if gated else 2
    return matrices * hidden * width + (((matrices - 1) * width + hidden) if bias and width else 0)


def _shared_and_router(model: ModelShape, moe: Moe) -> int:
    count = model.hidden * moe.experts + (moe.experts if moe.router_bias else 0)
    count += moe.shared_experts * _ffn(model.hidden, moe.shared_ffn or moe.ffn, model.gated_ffn, False)
    return count + (model.hidden if moe.shared_gate else 0)
