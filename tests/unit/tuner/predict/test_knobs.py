"""Engine settings: common words, the engine's own, memory, and what nobody has."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName
from controlplane.model.serving import EngineName
from tuner.serving.knobs import read_knobs
from tuner.serving.replay.rules import rules_with_knobs

ENGINES: tuple[EngineName, ...] = ("vllm", "sglang", "trtllm-serve", "openvino")


@pytest.mark.parametrize("engine", ENGINES)
def test_common_words_mean_the_same_for_every_engine(engine: EngineName) -> None:
    found = read_knobs(
        engine, {"max_num_seqs": 64, "max_num_batched_tokens": 4096, "kv_blocks": 1000, "prefix_caching": False}
    )
    assert found.admission == {"maxNumSeqs": 64, "maxNumBatchedTokens": 4096, "enablePrefixCaching": False}
    assert found.kv_blocks == 1000
    assert found.ignored == ()


@pytest.mark.parametrize(
    ("engine", "knobs", "field", "value"),
    [
        ("vllm", {"gpu_memory_utilization": 0.8}, "memory_fraction", 0.8),
        ("vllm", {"gpuMemoryUtilization": 0.8}, "memory_fraction", 0.8),
        ("sglang", {"memory_fraction": 0.7}, "memory_fraction", 0.7),
        ("trtllm-serve", {"free_gpu_memory_fraction": 0.5}, "memory_fraction", 0.5),
        ("vllm", {"num_gpu_blocks_override": 512}, "kv_blocks", 512),
        ("openvino", {"numKvBlocks": 512}, "kv_blocks", 512),
        ("sglang", {"max_total_tokens": 8192}, "kv_tokens", 8192),
        ("vllm", {"kv_cache_dtype": "fp8"}, "kv_format", "fp8"),
        ("vllm", {"kv_cache_dtype": "auto"}, "kv_format", None),
        ("vllm", {"block_size": 32}, "block_tokens", 32),
    ],
)
def test_memory(engine: EngineName, knobs: dict[str, Any], field: str, value: object) -> None:
    assert getattr(read_knobs(engine, knobs), field) == value


def test_an_engine_may_be_told_not_to_plan_ahead() -> None:
    found = read_knobs("vllm", {"async_scheduling": False})
    assert found.ignored == ()
    assert not rules_with_knobs("vllm", found.admission).planned_ahead
    assert rules_with_knobs("vllm", {}).planned_ahead


def test_what_nothing_models_is_named() -> None:
    assert read_knobs("vllm", {"enforce_eager": True}).ignored == ("enforceEager",)


@pytest.mark.parametrize(
    ("engine", "knobs", "near"),
    [
        ("vllm", {"max_num_seq": 1}, "max_num_seqs"),
        ("vllm", {"kv_block": 1}, "kv_blocks"),
        ("sglang", {"chunked_prefill_sizes": 1}, "chunked_prefill_size"),
    ],
)
def test_unknown_settings_name_the_nearest(engine: EngineName, knobs: dict[str, Any], near: str) -> None:
    with pytest.raises(UnknownName, match=near):
        read_knobs(engine, knobs)


@pytest.mark.parametrize(
    ("engine", "knobs"),
    [
        ("vllm", {"max_num_seqs": 0}),
        ("vllm", {"max_num_seqs": "many"}),
        ("vllm", {"prefix_caching": 1}),
        ("vllm", {"kv_blocks": 0}),
        ("vllm", {"kv_blocks": True}),
        ("vllm", {"gpu_memory_utilization": 1.5}),
        ("vllm", {"max_num_seqs": 4, "maxNumSeqs": 8}),
        ("sglang", {"max_num_batched_tokens": -1}),
        ("openvino", {"chunked_prefill": "yes"}),
    ],
)
def test_values_the_engine_would_refuse(engine: EngineName, knobs: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read_knobs(engine, knobs)
    assert str(caught.value.field).startswith("knobs.")


def test_settings_that_do_not_go_together_are_remarked() -> None:
    found = read_knobs("openvino", {"max_num_seqs": 4})
    assert "dynamicSplitFuse" in found.remarks[0]


def test_errors_are_of_one_tree() -> None:
    with pytest.raises(TrimtabError):
        read_knobs("vllm", {"": 1})
