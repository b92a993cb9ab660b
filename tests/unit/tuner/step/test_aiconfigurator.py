"""The door to the measured tables: the package's documented values, exact separation, every exception as a Miss."""

import importlib.util
import subprocess
import sys
from dataclasses import replace

import pytest

from controlplane.model.errors import Unsupported
from tuner.serving.step import aiconfigurator
from tuner.serving.step.aiconfigurator import compile_query
from tuner.serving.step.query import Miss, Query, as_miss

pytest.importorskip("aiconfigurator_core", reason="the measured tables are an optional extra")

LLAMA_70B = Query(model="meta-llama/Meta-Llama-3.1-70B", system="h200_sxm", backend="vllm", tensor_parallel=8)
DEEPSEEK = Query(
    model="deepseek-ai/DeepSeek-V3", system="h200_sxm", backend="sglang", tensor_parallel=8, moe_expert_parallel=8
)


@pytest.fixture(scope="module")
def llama():
    return compile_query(LLAMA_70B)


def test_reference_values(llama):
    handle = llama.handle
    assert llama.query.version == "0.24.0"
    assert handle.decode_step_latency(64, 1024, 512) == pytest.approx(10.479227, rel=1e-6)
    assert handle.mixed_step_latency(2048, 64, 1024, 512) == pytest.approx(88.033839, rel=1e-6)
    assert handle.predict_prefill_latency(1, 2048) == pytest.approx(79.851890, rel=1e-6)
    assert handle.predict_prefill_latency(1, 8192, 6144) == pytest.approx(84.767, rel=1e-5)
    static = handle.run_static(batch_size=64, isl=1024, osl=512)
    assert static == pytest.approx((2514.302, 5347.621, 7861.923), rel=1e-6)


def test_parts_add_up_to_whole_steps(llama):
    # decode steps of the package look one token further than what is cached
    assert llama.decode_ms(64) + llama.decode_attention_ms(64, 1025) == pytest.approx(
        llama.handle.decode_step_latency(64, 1024, 2), rel=1e-12
    )
    prefill = llama.context_ms(2048) + llama.context_attention_ms(1, 2048, 6144)
    assert prefill == pytest.approx(llama.handle.predict_prefill_latency(1, 8192, 6144), rel=1e-12)


def test_a_chunk_costs_what_its_past_says(llama):
    # the forward-pass model of the package answers 98.738 for this iteration, its mixed step an average chunk
    mixed = (
        llama.context_ms(2048 + 64) + llama.context_attention_ms(1, 2048, 6144) + llama.decode_attention_ms(64, 9000)
    )
    assert mixed == pytest.approx(98.7385, rel=1e-5)


def test_mla_blocks_are_attention_though_their_name_does_not_say_so():
    parts = compile_query(replace(DEEPSEEK, fmha_quant="bfloat16", moe_tensor_parallel=8, moe_expert_parallel=1))
    assert parts.handle.mixed_step_latency(512, 8, 1024, 512) == pytest.approx(44.77, rel=1e-3)
    assert parts.decode_attention_ms(64, 32_000) > 2 * parts.decode_attention_ms(64, 1_000)
    assert parts.decode_ms(64) + parts.decode_attention_ms(64, 1025) == pytest.approx(
        parts.handle.decode_step_latency(64, 1024, 2), rel=1e-12
    )


def test_draft_tokens_widen_a_decode_step():
    drafting = compile_query(replace(DEEPSEEK, fmha_quant="bfloat16", draft_tokens=1))
    assert drafting.decode_ms(16) + drafting.decode_attention_ms(16, 1025) == pytest.approx(
        drafting.handle.decode_step_latency(16, 1024, 2), rel=1e-12
    )


def test_pipeline_stages_are_all_counted():
    two = compile_query(replace(LLAMA_70B, tensor_parallel=4, pipeline_parallel=2))
    one = compile_query(replace(LLAMA_70B, tensor_parallel=4))
    assert one.decode_ms(64) < two.decode_ms(64) < 1.05 * one.decode_ms(64)


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        (DEEPSEEK, "table-miss"),  # compiles, and misses only when asked: fp8 attention over an fp8 cache
        (replace(LLAMA_70B, gemm_quant="nvfp4"), "quantisation-not-on-accelerator"),
        (replace(LLAMA_70B, model="acme/unknown-7b"), "model-unknown"),
        (replace(LLAMA_70B, version="0.1"), "version-unlisted"),
        (replace(LLAMA_70B, system="l4"), "system-unknown"),
        (replace(LLAMA_70B, system="nowhere"), "system-unknown"),
        (replace(LLAMA_70B, tensor_parallel=7), "shape-refused"),
        (replace(DEEPSEEK, moe_expert_parallel=1), "shape-refused"),
        (replace(LLAMA_70B, gemm_quant="fp7"), "quantisation-unknown"),
    ],
)
def test_what_the_package_raises_is_a_miss(query, kind):
    with pytest.raises(Miss) as caught:
        compile_query(query)
    assert caught.value.kind == kind
    assert caught.value.detail
    assert "/site-packages/" not in caught.value.detail


def test_nothing_to_borrow():
    from aiconfigurator_core.sdk.errors import EmpiricalNotImplementedError

    assert as_miss(EmpiricalNotImplementedError("no reference")).kind == "nothing-to-borrow"


def test_an_undocumented_exception_is_named():
    miss = as_miss(ZeroDivisionError("division by zero"))
    assert (miss.kind, miss.detail) == ("package-error", "ZeroDivisionError: division by zero")


def test_speed_of_light_bounds_what_was_measured(llama):
    assert 0 < llama.context_light_ms(2048) < llama.context_ms(2048)
    assert 0 < llama.decode_light_ms(64) < llama.decode_ms(64)
    assert 0 < llama.context_attention_light_ms(1, 2048, 0) < llama.context_attention_ms(1, 2048, 0)
    assert 0 < llama.decode_attention_light_ms(64, 2048) < llama.decode_attention_ms(64, 2048)


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unsupported, match=r"trimtab\[aiconfigurator\]"):
        compile_query(LLAMA_70B)


def test_another_release_is_refused(monkeypatch):
    monkeypatch.setattr(aiconfigurator.metadata, "version", lambda name: "0.13.0")
    with pytest.raises(Unsupported, match=r"0\.12\.0"):
        compile_query(LLAMA_70B)


def test_importing_the_door_does_not_import_the_package():
    code = "import sys, tuner.serving.step.ladder; sys.exit('aiconfigurator_core' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
