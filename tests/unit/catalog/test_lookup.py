"""Unknown names are refused with the nearest known ones."""

import pytest

from controlplane.catalog import load, nearest
from controlplane.model.errors import UnknownName


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        ("accelerator", "h100-sxm", "h100-sxm-80gb"),
        ("accelerator", "H100-SXM-80GB", "h100-sxm-80gb"),
        ("accelerator", "h100_sxm", "h100-sxm-80gb"),
        ("accelerator", "mi300", "mi300x-192gb"),
        ("accelerator", "rtx4090", "rtx-4090"),
        ("model", "llama-3-1-70b", "llama-3.1-70b"),
        ("model", "llama3.1-70b", "llama-3.1-70b"),
        ("model", "deepseekv3", "deepseek-v3"),
        ("engine", "trtllm", "trtllm-serve"),
        ("engine", "vLLM", "vllm"),
        ("nic", "ib-ndr", "ib-ndr-400"),
        ("nic", "roce400", "roce-400"),
    ],
)
def test_nearest_names(kind: str, wrong: str, right: str) -> None:
    with pytest.raises(UnknownName) as caught:
        getattr(load(), kind)(wrong, field="spec.thing")
    error = caught.value
    assert error.field == "spec.thing" and error.value == wrong and error.reason == "UnknownName"
    assert error.hint is not None and right in error.hint.replace("?", "").split()


def test_nothing_similar_lists_what_there_is() -> None:
    with pytest.raises(UnknownName) as caught:
        load().engine("@@@")
    assert caught.value.hint == "known: openvino, sglang, trtllm-serve, vllm"


def test_a_hostile_name_is_quoted_and_costs_little() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'x+'"):
        load().model("x" * 63)


def test_nearest_ignores_case_and_separators() -> None:
    assert nearest("MAX_NUM_SEQS", ["maxNumSeqs", "maxModelLen"]) == ["maxNumSeqs"]
    assert nearest("max-num-batched-token", ["maxNumSeqs", "maxNumBatchedTokens"])[0] == "maxNumBatchedTokens"
    assert nearest("", ["a"]) == []


def test_load_is_read_once() -> None:
    assert load() is load()
