"""Memory of a rank: the reference rows, hand-counted shapes, and what must never go the other way."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.errors import InvalidSpec, Unsupported
from tuner.serving.case import EngineCase
from tuner.serving.memory import memory_budget, request_kv_bytes

H200_BYTES = 151_397_597_184  # 141 GiB, as the reference rows count it
LLAMA_70B = EngineCase(model="llama-3.1-70b", accelerator="h200-sxm-141gb", engine="vllm", tensor_parallel=8)


@pytest.mark.parametrize(
    ("engine", "kv_bytes", "tokens"),
    [
        ("vllm", 113_779_513_753, 2_777_820),
        ("trtllm-serve", 116_027_346_124, 2_832_698),
        ("sglang", 109_667_753_656, 2_677_435),
    ],
)
def test_the_reference_rows_of_aiconfigurator_core(engine, kv_bytes, tokens):
    # its weights leave out the norms, which every rank holds whole: 2.6 MB
    case = dataclasses.replace(LLAMA_70B, engine=engine)
    budget = memory_budget(case, capacity_bytes=H200_BYTES)
    assert budget.kv_bytes == pytest.approx(kv_bytes, rel=3e-5)
    assert budget.kv_tokens == pytest.approx(tokens, rel=3e-5)
    assert budget.kv_bytes_per_token == 40_960


def test_the_parts_of_the_vllm_row():
    budget = memory_budget(LLAMA_70B, capacity_bytes=H200_BYTES)
    norms = (2 * 80 + 1) * 8192 * 2
    assert budget.weight_bytes == pytest.approx(17_638_096_896 + norms, abs=1)
    assert budget.activation_bytes == 671_088_640
    assert budget.runtime_bytes == 3_758_096_384
    assert budget.collective_bytes == 411_041_792
    assert dataclasses.replace(budget, block_tokens=16).kv_blocks(0.05) == pytest.approx(164_933, abs=5)


def test_the_drivers_capacity_is_what_plans_count_on():
    # the driver reports 0.4 % less than 141 GiB
    assert memory_budget(LLAMA_70B).kv_bytes == pytest.approx(113_779_513_753, rel=6e-3)


def test_a_model_too_large_says_by_how_much():
    budget = memory_budget(dataclasses.replace(LLAMA_70B, accelerator="a40", tensor_parallel=1))
    assert budget.fits is False
    assert budget.kv_bytes == 0
    least = budget.fixed_bytes + budget.block_tokens * budget.kv_bytes_per_token - 0.9 * budget.capacity_bytes
    assert budget.missing_bytes == pytest.approx(least, abs=2)
    assert "missing" in budget.warning()


def test_unknown_memory_is_unknown_not_zero():
    budget = memory_budget(EngineCase(model="qwen3-0.6b", accelerator="cpu-x86", engine="openvino"))
    assert budget.capacity_bytes is None
    assert budget.kv_bytes is None
    assert budget.kv_tokens is None
    assert budget.fits is None
    assert budget.warning() is None


def test_latent_cache_is_whole_on_every_rank():
    case = EngineCase(
        model="deepseek-v3",
        accelerator="h200-sxm-141gb",
        engine="vllm",
        tensor_parallel=8,
        moe_expert_parallel=8,
        kv_quant="fp8",
    )
    assert memory_budget(case).kv_bytes_per_token == 61 * (512 + 64)


def test_windows_stop_growing():
    case = EngineCase(model="gpt-oss-120b", accelerator="h200-sxm-141gb", engine="vllm")
    layer = 2 * 8 * 64 * 2
    assert request_kv_bytes(case, 100) == 36 * layer * 100
    assert request_kv_bytes(case, 10_000) == 18 * layer * (10_000 + 128)


def test_linear_layers_keep_one_state_per_sequence():
    case = EngineCase(model="qwen3.5-27b", accelerator="h200-sxm-141gb", engine="vllm")
    budget = memory_budget(case)
    assert budget.kv_bytes_per_token == 16 * 2 * 4 * 256 * 2  # every fourth of 64 layers, 4 KV heads of 256
    assert budget.state_bytes_per_sequence > 48 * 48 * 128 * 128 * 4


def test_a_fraction_out_of_range_is_refused():
    with pytest.raises(InvalidSpec) as error:
        memory_budget(LLAMA_70B, fraction=1.5)
    assert error.value.field == "knobs.memory_fraction"


def test_a_format_without_arithmetic_is_refused():
    with pytest.raises(Unsupported):
        memory_budget(EngineCase(model="llama-3.1-8b", accelerator="t4", engine="vllm", gemm_quant="fp8"))


@given(
    tp=st.sampled_from([1, 2, 4]),
    tokens=st.integers(1, 65_536),
    more=st.integers(1, 10_000),
    fraction=st.floats(0.3, 0.9),
)
def test_more_room_never_holds_less(tp, tokens, more, fraction):
    case = dataclasses.replace(LLAMA_70B, tensor_parallel=tp)
    budget = memory_budget(case, max_num_tokens=tokens, fraction=fraction)
    assert memory_budget(case, max_num_tokens=tokens + more, fraction=fraction).kv_bytes <= budget.kv_bytes
    assert memory_budget(case, max_num_tokens=tokens, fraction=fraction + 0.1).kv_bytes >= budget.kv_bytes
    wider = memory_budget(dataclasses.replace(case, tensor_parallel=2 * tp), max_num_tokens=tokens, fraction=fraction)
    assert wider.weight_bytes < budget.weight_bytes
    assert (budget.missing_bytes == 0) == bool(budget.fits)
