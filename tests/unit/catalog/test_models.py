"""Models: counts from the shape against published counts, KV and weight bytes, parallel degrees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.catalog import ModelShape, load
from controlplane.catalog.params import (
    BYTES_PER_WEIGHT,
    check_parallel,
    count_parameters,
    full_attention_layers,
    kv_bytes_of_request,
    kv_bytes_per_token,
    kv_bytes_per_token_per_layer,
    weight_bytes,
    weight_bytes_per_rank,
)

MODELS = list(load().models.values())


def by_id(model: ModelShape) -> str:
    return model.id


def is_exact(count: int) -> bool:
    """Counted in the checkpoint, as opposed to rounded on a model card."""
    return count % 1_000_000 != 0


@pytest.mark.parametrize("model", MODELS, ids=by_id)
def test_parameters_from_shape_agree_with_the_published_count(model: ModelShape) -> None:
    """Checkpoint counts to 0.01 %; figures rounded on a model card or in a paper to 3 %."""
    assert model.published_parameters is not None
    ratio = count_parameters(model).total / model.published_parameters
    assert ratio == pytest.approx(1.0, abs=1e-4 if is_exact(model.published_parameters) else 0.03)


@pytest.mark.parametrize("model", [m for m in MODELS if m.moe is not None], ids=by_id)
def test_active_parameters(model: ModelShape) -> None:
    """Model cards round active counts and differ in what they count: 10 %."""
    assert model.published_active_parameters is not None
    count = count_parameters(model)
    assert count.active / model.published_active_parameters == pytest.approx(1.0, abs=0.10)
    assert count.active < 0.5 * count.total


@pytest.mark.parametrize("model", MODELS, ids=by_id)
def test_shapes_are_consistent(model: ModelShape) -> None:
    assert model.heads % model.kv_heads == 0
    assert (model.attention == "mla") == (model.mla is not None)
    assert (model.attention == "mha") == (model.kv_heads == model.heads and model.mla is None)
    assert (model.ffn is None) == (model.moe is not None and model.moe.dense_layers_first == 0)
    assert model.max_context_tokens is not None and 1024 <= model.max_context_tokens <= 2**20
    assert model.checkpoint_dtype in BYTES_PER_WEIGHT
    if model.moe is not None:
        assert 1 < model.moe.experts_per_token < model.moe.experts
        assert model.moe.dense_layers_first < model.layers
    if model.mla is not None:
        assert model.head_dim == model.mla.qk_nope_head_dim + model.mla.qk_rope_head_dim
    if model.linear is not None:
        assert model.layers % model.linear.full_attention_every == 0
    if model.sliding_window is not None:
        assert model.sliding_window.tokens < model.max_context_tokens


def test_the_generated_model_is_the_one_the_engine_makes() -> None:
    tiny = load().model("tiny-random-llama")
    assert (tiny.hidden, tiny.layers, tiny.heads, tiny.kv_heads, tiny.head_dim) == (512, 8, 8, 4, 64)
    assert (tiny.ffn, tiny.vocab, tiny.checkpoint_dtype) == (1536, 4096, "Q8_0")
    matrices = count_parameters(tiny).total - count_parameters(tiny).norms
    assert matrices == 29_360_128
    assert weight_bytes(tiny) == pytest.approx(31.2e6, rel=0.01)  # the Q8_0 file is 31 MB


def test_kv_bytes_of_known_models() -> None:
    """Llama 3.1 70B, TP 8, 16 bits: 40,960 bytes a token and rank; DeepSeek-V3: one latent of 576 in 61 layers."""
    assert kv_bytes_per_token(load().model("llama-3.1-70b"), 2.0, tensor_parallel=8) == 40_960
    assert kv_bytes_per_token(load().model("llama-3.1-70b"), 2.0) == 327_680
    assert kv_bytes_per_token(load().model("deepseek-v3"), 2.0, tensor_parallel=8) == 61 * 576 * 2
    assert kv_bytes_per_token(load().model("llama-3.1-8b"), 1.0) == 65_536
    assert kv_bytes_per_token_per_layer(load().model("llama-2-7b")) == 2 * 32 * 128 * 2


def test_kv_heads_are_repeated_when_ranks_outnumber_them() -> None:
    qwen = load().model("qwen3-235b-a22b")  # 4 KV heads
    assert kv_bytes_per_token(qwen, 2.0, 4) == kv_bytes_per_token(qwen, 2.0, 8)


def test_windows_and_linear_layers_bound_the_kv_cache() -> None:
    gemma = load().model("gemma-3-27b")
    long, short = (kv_bytes_of_request(gemma, tokens) for tokens in (100_000, 1_000))
    assert long < 100 * short and long > 10 * short
    assert kv_bytes_of_request(gemma, 500) == 500 * kv_bytes_per_token(gemma)
    qwen = load().model("qwen3.5-397b-a17b")
    assert full_attention_layers(qwen) == 15
    assert kv_bytes_of_request(qwen, 10) == 10 * 15 * kv_bytes_per_token_per_layer(qwen)


@given(st.sampled_from(MODELS), st.integers(1, 100_000))
def test_kv_of_a_request_never_shrinks_and_is_at_most_linear(model: ModelShape, tokens: int) -> None:
    here, next_ = kv_bytes_of_request(model, tokens), kv_bytes_of_request(model, tokens + 1)
    assert here <= next_ <= here + kv_bytes_per_token(model)
    assert here <= tokens * kv_bytes_per_token(model)


def test_weight_bytes() -> None:
    model = load().model("llama-3.1-70b")
    assert weight_bytes(model) == 2 * 70_553_706_496
    assert weight_bytes(model, "fp8") == 70_553_706_496
    # vLLM's own figure for TP 8 is 17,638,096,896 bytes (norms are not split, hence the small difference).
    assert weight_bytes_per_rank(model, tensor_parallel=8) == pytest.approx(17_638_096_896, rel=1e-3)
    deepseek = load().model("deepseek-v3")
    assert weight_bytes_per_rank(deepseek, expert_parallel=64, data_parallel=64) < weight_bytes(deepseek) / 10


@given(st.sampled_from(MODELS), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]))
def test_more_ranks_never_need_more_bytes_each(model: ModelShape, tensor: int, stages: int) -> None:
    one = weight_bytes_per_rank(model, tensor_parallel=tensor, pipeline_parallel=stages)
    two = weight_bytes_per_rank(model, tensor_parallel=2 * tensor, pipeline_parallel=stages)
    assert two < one <= weight_bytes(model)
    assert one * tensor * stages >= weight_bytes(model) * 0.999


def test_parallel_degrees_that_do_not_divide_are_refused_with_the_nearest_that_do() -> None:
    errors = check_parallel(load().model("llama-3.1-8b"), tensor_parallel=6, field="spec.explicit.choices[0]")
    assert [str(error) for error in errors] == [
        "spec.explicit.choices[0].tensorParallel: 6 does not divide the 32 attention heads of llama-3.1-8b; "
        "nearest that do: 2, 4, 8"
    ]
    assert check_parallel(load().model("llama-3.1-8b"), tensor_parallel=8, pipeline_parallel=2) == []
    assert check_parallel(load().model("qwen3-235b-a22b"), tensor_parallel=8, expert_parallel=8) == []


def test_kv_heads_must_divide_too() -> None:
    phi = load().model("phi-4")  # 40 heads, 10 KV heads
    assert check_parallel(phi, tensor_parallel=5) == [] and check_parallel(phi, tensor_parallel=20) == []
    (error,) = check_parallel(phi, tensor_parallel=8)
    assert "10 KV heads" in str(error)


def test_stages_and_experts() -> None:
    dense, moe = load().model("llama-3.2-1b"), load().model("mixtral-8x7b")
    assert "16 layers" in str(check_parallel(dense, pipeline_parallel=17)[0])
    assert "has no experts" in str(check_parallel(dense, expert_parallel=2)[0])
    assert "8 experts" in str(check_parallel(moe, expert_parallel=3)[0])
    assert check_parallel(moe, expert_parallel=4) == []
