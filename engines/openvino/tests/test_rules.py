"""Flag combinations: what is filled in, and what is refused with both flags and a way out named."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab_engine.cpu import Host
from trimtab_engine.errors import UsageError
from trimtab_engine.modelinfo import ModelInfo
from trimtab_engine.options import EngineOptions
from trimtab_engine.rules import EngineFlags, resolve

HOST = Host(affinity_cpus=4, quota_cpus=None, memory_limit_bytes=None, amx_bf16=True)
Q8 = ModelInfo(Path("m.gguf"), "gguf", 4096, "Q8_0")
F16 = ModelInfo(Path("m.gguf"), "gguf", 4096, "F16")


def test_defaults_are_resolved() -> None:
    options = resolve(EngineFlags(), Q8, HOST)
    assert options.num_threads == 4
    assert options.max_num_batched_tokens == 256
    assert options.max_num_seqs is None
    assert (options.cache_size_gb, options.num_kv_blocks) == (1, 0)
    assert options.context_tokens == 4096
    assert options.max_prompt_tokens == 4095
    assert EngineOptions.from_json(options.to_json()) == options


def test_threads_follow_the_quota_rounded_up() -> None:
    for quota, threads in ((0.5, 1), (1.0, 1), (1.2, 2), (16.0, 4)):
        host = Host(affinity_cpus=4, quota_cpus=quota, memory_limit_bytes=None, amx_bf16=False)
        assert resolve(EngineFlags(), Q8, host).num_threads == threads


def test_without_split_fuse_a_prompt_must_fit_a_step() -> None:
    whole = resolve(EngineFlags(dynamic_split_fuse=False), Q8, HOST)
    assert (whole.max_num_batched_tokens, whole.max_prompt_tokens, whole.max_num_seqs) == (4096, 4095, 256)
    small = resolve(EngineFlags(dynamic_split_fuse=False, max_num_batched_tokens=100), Q8, HOST)
    assert (small.max_prompt_tokens, small.max_num_seqs) == (100, 100)


def test_kv_blocks_replace_the_cache_size() -> None:
    options = resolve(EngineFlags(num_kv_blocks=10), Q8, HOST)
    assert (options.cache_size_gb, options.num_kv_blocks, options.kv_capacity_tokens) == (0, 10, 320)


REFUSED = [
    (EngineFlags(max_num_seqs=8), Q8, ["--max-num-seqs 8", "--no-dynamic-split-fuse"]),
    (
        EngineFlags(max_num_seqs=64, max_num_batched_tokens=32, dynamic_split_fuse=False),
        Q8,
        ["--max-num-seqs 64", "--max-num-batched-tokens 32", "lower", "raise"],
    ),
    (EngineFlags(num_kv_blocks=10, cache_size_gb=1), Q8, ["--num-kv-blocks 10", "--cache-size-gb 1", "give one"]),
    (EngineFlags(inference_precision="f16"), Q8, ["--inference-precision f16", "use f32"]),
    (EngineFlags(inference_precision="int4"), Q8, ["--inference-precision int4", "f32"]),
    (EngineFlags(inference_precision="bf16", num_threads=1), F16, ["--num-threads 1", "F16", "SIGFPE", "f32"]),
    (EngineFlags(kv_cache_precision="bf16"), Q8, ["--kv-cache-precision bf16", "--inference-precision bf16"]),
    (EngineFlags(kv_cache_precision="i8"), Q8, ["--kv-cache-precision i8", "u8"]),
    (
        EngineFlags(use_cache_eviction=True, enable_prefix_caching=True),
        Q8,
        ["--use-cache-eviction", "--enable-prefix-caching"],
    ),
    (
        EngineFlags(use_cache_eviction=True, cache_eviction_max_tokens=160),
        Q8,
        ["--cache-eviction-max-tokens 160", "--cache-eviction-start-tokens 32", "--cache-eviction-recent-tokens 128"],
    ),
    (
        EngineFlags(use_cache_eviction=True, cache_eviction_recent_tokens=100),
        Q8,
        ["--cache-eviction-recent-tokens 100", "multiple", "32"],
    ),
    (EngineFlags(context_tokens=8192), Q8, ["--max-model-len 8192", "4096"]),
    (EngineFlags(context_tokens=1), Q8, ["--max-model-len 1", "at least 2"]),
    (EngineFlags(num_threads=0), Q8, ["--num-threads 0", "at least 1"]),
    (EngineFlags(max_num_batched_tokens=-5), Q8, ["--max-num-batched-tokens -5"]),
    (EngineFlags(num_kv_blocks=0), Q8, ["--num-kv-blocks 0"]),
]


@pytest.mark.parametrize(("flags", "model", "words"), REFUSED, ids=lambda value: None)
def test_refused(flags: EngineFlags, model: ModelInfo, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(flags, model, HOST)
    for word in words:
        assert word in str(caught.value)


def test_bf16_needs_amx_and_for_16_bit_weights_two_cpus() -> None:
    flags = EngineFlags(inference_precision="bf16", num_threads=2)
    assert resolve(flags, F16, HOST).inference_precision == "bf16"
    no_amx = Host(affinity_cpus=4, quota_cpus=None, memory_limit_bytes=None, amx_bf16=False)
    with pytest.raises(UsageError, match="amx_bf16"):
        resolve(flags, Q8, no_amx)
    one_cpu = Host(affinity_cpus=4, quota_cpus=0.8, memory_limit_bytes=None, amx_bf16=True)
    with pytest.raises(UsageError, match="1 usable CPU"):
        resolve(flags, F16, one_cpu)
    assert resolve(flags, Q8, one_cpu).inference_precision == "bf16"


def test_a_cache_over_the_memory_limit_is_refused() -> None:
    host = Host(affinity_cpus=4, quota_cpus=None, memory_limit_bytes=2 << 30, amx_bf16=False)
    with pytest.raises(UsageError, match=r"--cache-size-gb 2 .* memory limit"):
        resolve(EngineFlags(cache_size_gb=2), Q8, host)
    assert resolve(EngineFlags(cache_size_gb=1), Q8, host).cache_size_gb == 1
