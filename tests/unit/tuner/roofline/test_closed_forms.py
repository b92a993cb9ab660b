"""Roofline parts against sums done by hand."""

import dataclasses

import numpy as np
import pytest

from controlplane.catalog import load
from tuner.serving.case import EngineCase
from tuner.serving.step.roofline import engine_of, roofline_table
from tuner.serving.step.roofline_attention import pairs
from tuner.serving.step.roofline_formats import WEIGHT_FORMATS
from tuner.serving.step.roofline_hardware import class_of, constants, hardware_of
from tuner.serving.step.roofline_layers import experts_touched
from tuner.serving.step.roofline_links import Link, Links

CATALOG = load()
H200 = CATALOG.accelerators["h200-sxm-141gb"]
BF16 = WEIGHT_FORMATS["bfloat16"]


def array(*values):
    return np.array(values, dtype=float)


def case(model="llama-3.1-8b", accelerator="h200-sxm-141gb", **more):
    return EngineCase(model=model, accelerator=accelerator, engine="vllm", **more)


def test_a_matrix_product_deep_in_the_memory_bound_side():
    hardware = hardware_of(H200)
    got = hardware.gemm_ms(array(1), 8192, 28672, BF16)[0]
    moved = 8192 * 28672 * 2 + 8192 * 2 + 28672 * 2
    assert got == pytest.approx(moved / (4.8e12 * 0.80) * 1e3 + 0.0033, rel=1e-3)


def test_a_matrix_product_deep_in_the_compute_bound_side():
    hardware = hardware_of(H200)
    got = hardware.gemm_ms(array(16384), 8192, 28672, BF16)[0]
    assert got == pytest.approx(2 * 16384 * 8192 * 28672 / (989e12 * 0.76) * 1e3 + 0.0033, rel=2e-2)


def test_run_time_scales_cost_a_pass_and_a_launch():
    hardware = hardware_of(H200)
    dynamic, static = (
        hardware.gemm_ms(array(1), 8192, 8192, WEIGHT_FORMATS[word])[0] for word in ("fp8", "fp8_static")
    )
    assert dynamic - static == pytest.approx(0.0033 + 8192 * 3 / (4.8e12 * 0.80) * 1e3)


def test_pairs_of_queries_and_keys():
    assert pairs(array(4), array(0), None)[0] == 1 + 2 + 3 + 4
    assert pairs(array(3), array(10), None)[0] == 11 + 12 + 13
    assert pairs(array(5), array(0), 2.0)[0] == 1 + 2 + 2 + 2 + 2
    assert pairs(array(3), array(10), 4.0)[0] == 4 + 4 + 4


def test_experts_touched():
    moe = CATALOG.models["deepseek-v3"].moe
    assert experts_touched(array(1), moe)[0] == pytest.approx(8)
    assert experts_touched(array(2), moe)[0] == pytest.approx(256 * (1 - (248 / 256) ** 2))
    assert experts_touched(array(1e6), moe)[0] == pytest.approx(256)
    assert experts_touched(array(3), dataclasses.replace(moe, experts_per_token=256))[0] == 256


def test_collectives_inside_one_domain():
    links = Links(Link(100e9, 0.004, 0.001), 8, Link(10e9, 0.02, 0.004))
    size = array(8e6)
    assert links.all_reduce_ms(size, 1)[0] == 0
    assert links.all_reduce_ms(size, 8)[0] == pytest.approx(2 * 8e6 * 7 / 8 / 100e9 * 1e3 + 0.004 + 7 * 0.001)
    assert links.all_gather_ms(size, 4)[0] == pytest.approx(8e6 * 3 / 4 / 100e9 * 1e3 + 0.004 + 3 * 0.001)
    assert links.all_to_all_ms(size, 4)[0] == pytest.approx(8e6 * 3 / 4 / 100e9 * 1e3 + 0.004 + 2 * 0.001)
    assert links.send_ms(size, near=True)[0] == pytest.approx(0.08 + 0.004)


def test_collectives_between_domains_pay_the_slow_link_on_their_share():
    links = Links(Link(100e9, 0.004, 0.001), 8, Link(10e9, 0.02, 0.004))
    size = array(8e6)
    inside = 2 * 8e6 * 7 / 8 / 100e9 * 1e3 + 0.004 + 7 * 0.001
    between = 2 * (8e6 / 8) * 1 / 2 / 10e9 * 1e3 + 0.02 + 0.004
    assert links.all_reduce_ms(size, 16)[0] == pytest.approx(inside + between)


def test_decode_attention_reads_the_cache_once():
    engine = engine_of(case())
    table = roofline_table(case())
    i, k = 18, 40
    sequences, kv = table.decode_attention_sequences[i], table.decode_attention_kv[k]
    moved = sequences * (kv + 1) * 2 * 8 * 128 * 2 + sequences * 2 * 32 * 128 * 2
    floor = constants()["attention"]["decode_kernels"] * engine.hardware.launch_ms
    least = 32 * (moved / (4.8e12 * 0.90) * 1e3 + floor)
    assert least <= table.decode_attention_ms[i, k] <= 1.2 * least


def test_a_decode_step_reads_every_weight_once():
    table = roofline_table(case("llama-3.1-70b", "b200-sxm-180gb"))
    weights = 2 * (80 * (8192 * (8192 + 2 * 1024) + 8192 * 8192 + 3 * 8192 * 28672) + 8192 * 128256)
    assert 1.0 <= table.decode_ms[0] / (weights / (7.7e12 * 0.80) * 1e3) < 1.15


def test_tensor_parallel_ranks_repeat_missing_kv_heads():
    eight, sixteen = (engine_of(case("llama-3.1-70b", "gb200-186gb", tensor_parallel=tp)) for tp in (8, 16))
    a = roofline_table(eight.case).decode_attention_ms[-1, -1]
    b = roofline_table(sixteen.case).decode_attention_ms[-1, -1]
    assert b == pytest.approx(a, rel=0.05)  # one KV head on every rank either way


def test_a_window_bounds_decode_attention():
    table = roofline_table(case("gpt-oss-120b"))
    far = table.decode_attention_ms[6]
    plain = roofline_table(case("llama-3.1-8b")).decode_attention_ms[6]
    # half of the layers see 128 tokens only: growth from 64 k to 1 M tokens is that of the other half
    assert (far[-1] - far[-13]) / (plain[-1] - plain[-13]) == pytest.approx(18 * 8 * 64 / (32 * 8 * 128), rel=0.05)


def test_linear_layers_have_no_attention_over_the_cache():
    table = roofline_table(case("qwen3.5-27b"))
    engine = engine_of(case("qwen3.5-27b"))
    kv_bytes = 4096 * table.decode_attention_kv[-1] * 16 * 2 * 4 * 256 * 2
    assert engine.model.linear.full_attention_every == 4
    assert table.decode_attention_ms[-1, -1] == pytest.approx(kv_bytes / (4.8e12 * 0.90) * 1e3, rel=0.05)


def test_sparse_attention_is_cheaper_than_dense_only_when_the_context_is_long():
    def decode(model):
        got = roofline_table(
            case(model, tensor_parallel=1, attention_data_parallel=8, moe_expert_parallel=8, kv_quant="fp8")
        )
        return got.decode_attention_ms[18], got.decode_attention_kv

    (dense, kv), (sparse, _) = decode("deepseek-v3"), decode("deepseek-v3.2")
    assert sparse[np.searchsorted(kv, 256)] > dense[np.searchsorted(kv, 256)]
    assert sparse[-1] < 0.5 * dense[-1]


def test_draft_tokens_cost_tokens_and_a_head():
    plain, drafted = roofline_table(case()), roofline_table(case(draft_tokens=3))
    assert (drafted.decode_ms > plain.decode_ms).all()
    assert drafted.draft_tokens == 3
    assert (drafted.decode_ms[:4] < 2 * plain.decode_ms[:4]).all()  # the weights are read once for all of them


def test_pipeline_stages_add_sends_not_work():
    one = roofline_table(case("llama-3.1-70b", tensor_parallel=4))
    two = roofline_table(case("llama-3.1-70b", tensor_parallel=4, pipeline_parallel=2))
    assert (two.context_ms > one.context_ms).all()
    assert two.context_ms[0] - one.context_ms[0] < 0.1


def test_classes_cover_every_accelerator():
    classes = {class_of(accelerator) for accelerator in CATALOG.accelerators.values()}
    assert classes == set(constants()["classes"])
    assert set(constants()["accelerators"]) <= set(CATALOG.accelerators)
