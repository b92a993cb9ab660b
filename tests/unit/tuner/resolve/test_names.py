"""Names in any of their spellings, formats that names state, widths that follow, and errors that name the nearest."""

import pytest

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, UnknownName
from tuner.serving.resolve import engine_case, find_accelerator, find_engine, find_model, formats_of_name

CATALOG = load()
BASE = {"model": "meta-llama/Llama-3.1-70B", "system": "h200_sxm", "backend": "vllm", "tp": 8}


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("h200_sxm", "h200-sxm-141gb"),
        ("gb200", "gb200-186gb"),
        ("b60", "arc-pro-b60-24gb"),
        ("rtx_pro_6000_server", "rtx-pro-6000-server"),
        ("h100-sxm-80gb", "h100-sxm-80gb"),
        ("NVIDIA-H100-80GB-HBM3", "h100-sxm-80gb"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("a6000", "rtx-a6000"),
        ("RTX4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("GeForce RTX 3090", "rtx-3090"),
        ("mi300x", "mi300x-192gb"),
        ("AMD_Instinct_MI300X_OAM", "mi300x-192gb"),
        ("h100_nvl", "h100-nvl-94gb"),
        ("H100", "h100-sxm-80gb"),
        ("a100", "a100-sxm-80gb"),
        ("L4", "l4"),
        ("a40", "a40"),
        ("v100", "v100-sxm2-32gb"),
        ("T4", "t4"),
    ],
)
def test_accelerators(name, id):
    assert find_accelerator(CATALOG, name).id == id


def test_every_table_name_and_id_and_unambiguous_product_resolves():
    for accelerator in CATALOG.accelerators.values():
        assert find_accelerator(CATALOG, accelerator.id) is accelerator
        if accelerator.aiconfigurator_system is not None:
            assert find_accelerator(CATALOG, accelerator.aiconfigurator_system) is accelerator


@pytest.mark.parametrize(
    ("name", "id", "formats"),
    [
        ("meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b", (None, None, None)),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", (None, None, None)),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b", ("fp8_static", "fp8", "fp8")),
        ("Qwen/Qwen3-32B-FP8", "qwen3-32b", ("fp8_block", "fp8_block", None)),
        ("nvidia/Qwen3-32B-NVFP4", "qwen3-32b", ("nvfp4", "nvfp4", "fp8")),
        ("nvidia/DeepSeek-R1-NVFP4", "deepseek-r1", ("nvfp4", "nvfp4", "fp8")),
        ("zhipuai/GLM-5", "glm-5", (None, None, None)),
        ("MiniMaxAI/MiniMax-M2.5", "minimax-m2.5", (None, None, None)),
        ("openai/gpt-oss-120b", "gpt-oss-120b", (None, None, None)),
        ("Qwen/Qwen3.5-397B-A17B", "qwen3.5-397b-a17b", (None, None, None)),
        ("moonshotai/Kimi-K2.5", "kimi-k2.5", (None, None, None)),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b", ("fp8_block", "fp8_block", None)),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3", (None, None, None)),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b", ("int4_wo", "int4_wo", None)),
        ("llama-3.1-70b", "llama-3.1-70b", (None, None, None)),
        ("Llama-3.1-70B", "llama-3.1-70b", (None, None, None)),
    ],
)
def test_models_and_the_formats_their_names_state(name, id, formats):
    assert find_model(CATALOG, name).id == id
    assert formats_of_name(name) == formats
    got = engine_case(BASE | {"model": name})
    assert got.model == id
    assert (got.gemm_quant, got.kv_quant) == (formats[0], formats[2])


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("vllm", "vllm"),
        ("SGLang", "sglang"),
        ("trtllm", "trtllm-serve"),
        ("trtllm-serve", "trtllm-serve"),
        ("openvino", "openvino"),
    ],
)
def test_engines(name, engine):
    assert find_engine(name) == engine


@pytest.mark.parametrize(
    ("field", "value", "near"),
    [
        ("model", "meta-llama/Llama-3.1-71B", "llama-3.1-70b"),
        ("system", "h200_sxn", "h200_sxm"),
        ("backend", "vlm", "vllm"),
        ("gemm_quant", "fp8_blok", "fp8_block"),
        ("kv_quant", "fp8_e4m4", "fp8_e4m3"),
        ("nic", "ib-ndr-500", "ib-ndr-400"),
    ],
)
def test_unknown_names_come_with_the_nearest_known(field, value, near):
    with pytest.raises(UnknownName) as error:
        engine_case(BASE | {field: value})
    assert error.value.field == field
    assert error.value.value == value
    assert near.lower() in error.value.hint.lower()


@pytest.mark.parametrize(("field", "kind"), [("model", "models"), ("system", "accelerators")])
def test_a_name_like_no_other_says_how_to_list_what_is_known(field, kind):
    with pytest.raises(UnknownName) as error:
        engine_case(BASE | {field: "zzzzzzzzzz"})
    assert error.value.hint == f"`trimtab catalog {kind}` lists what is known"


def test_a_copy_by_somebody_else_is_near_by_its_last_part():
    with pytest.raises(UnknownName) as error:
        engine_case(BASE | {"model": "a-rather-long-organisation-name/Llama-3.1-71B"})
    assert "llama-3.1-70b" in error.value.hint.lower()


@pytest.mark.parametrize(
    ("given", "widths"),
    [
        ({"tp": 8}, (8, 1)),
        ({"tp": 8, "moe_ep": 8}, (1, 8)),
        ({"tp": 8, "moe_ep": 4}, (2, 4)),
        ({"tp": 8, "moe_tp": 2}, (2, 4)),
        ({"tp": 1, "attention_dp": 8, "moe_ep": 8}, (1, 8)),
        ({"tp": 2, "attention_dp": 4}, (8, 1)),
        ({"tp": 2, "attention_dp": 4, "moe_tp": 1, "moe_ep": 8}, (1, 8)),
    ],
)
def test_expert_widths_follow(given, widths):
    got = engine_case({"model": "deepseek-v3", "system": "h200", "backend": "sglang"} | given)
    assert (got.moe_tensor_parallel, got.moe_expert_parallel) == widths


@pytest.mark.parametrize("given", [{"moe_tp": 8, "moe_ep": 8}, {"moe_ep": 3}, {"moe_tp": 16}])
def test_widths_that_do_not_match_are_refused(given):
    with pytest.raises(InvalidSpec) as error:
        engine_case({"model": "deepseek-v3", "system": "h200", "backend": "sglang", "tp": 8} | given)
    assert error.value.field in ("moe_tp", "moe_ep")
    assert "moe_tp x moe_ep = 8" in error.value.limit


def test_dense_models_have_no_expert_widths():
    assert engine_case(BASE | {"moe_tp": 1, "moe_ep": 1}).moe_expert_parallel == 1
    assert engine_case(BASE | {"moe_ep": 8}).moe_expert_parallel == 1  # exports repeat the width of attention
    with pytest.raises(InvalidSpec):
        engine_case(BASE | {"moe_ep": 4})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tp", 0),
        ("tp", -1),
        ("tp", 2.5),
        ("tp", True),
        ("tp", "8"),
        ("pp", 10**9),
        ("draft_tokens", -1),
        ("model", ""),
        ("model", None),
        ("system", 7),
        ("model", "x" * 301),
    ],
)
def test_absurd_input_is_refused(field, value):
    with pytest.raises(InvalidSpec) as error:
        engine_case(BASE | {field: value})
    assert error.value.field == field


def test_an_explicit_format_beats_the_name():
    got = engine_case(BASE | {"model": "Qwen/Qwen3-32B-FP8", "gemm_quant": "bf16", "kv_quant": "fp8_e4m3"})
    assert (got.gemm_quant, got.kv_quant) == ("bfloat16", "fp8")
    assert engine_case(BASE | {"model": "Qwen/Qwen3-32B-FP8", "gemm_quant": "auto"}).gemm_quant == "fp8_block"
