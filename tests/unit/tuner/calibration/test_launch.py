"""What is known of how recorded runs were launched reaches the questions that are asked of them."""

from dataclasses import replace

import pytest

from tests.unit.tuner.calibration.synthetic import row
from tuner.serving.calibration.launch import launch_fields

VENDOR = "source_file=/data/analysis"


def fields_of(backend: str, model: str = "Qwen/Qwen3-32B", clients: int = 8) -> dict[str, object]:
    return launch_fields(replace(row(model, "h100_sxm", backend, clients, 1024, 128), export=VENDOR))


@pytest.mark.parametrize(
    ("backend", "knobs"),
    [
        ("vllm", {"max_num_batched_tokens": 8 + 1024 + 1500, "async_scheduling": False}),
        ("trtllm", {"max_num_batched_tokens": 8 + 1024 + 64}),
        ("sglang", None),
    ],
)
def test_vendor_runs_have_room_for_a_prompt_beside_the_batch(backend: str, knobs: dict[str, object] | None) -> None:
    found = fields_of(backend)
    assert found.get("knobs") == knobs
    assert found["requests"] == 80
    assert "isl_range" not in found


def test_in_the_vendor_s_small_llama_runs_one_client_waits() -> None:
    for clients, places in ((8, 7), (128, 127)):
        knobs = fields_of("trtllm", "meta-llama/Llama-3.1-8B-Instruct", clients)["knobs"]
        assert isinstance(knobs, dict) and knobs["max_num_seqs"] == places
    alone = fields_of("trtllm", "meta-llama/Llama-3.1-8B-Instruct", 1)["knobs"]
    assert isinstance(alone, dict) and "max_num_seqs" not in alone


def test_published_recipes_say_the_rest() -> None:
    found = launch_fields(replace(row("Qwen/Qwen3-32B", "h100_sxm", "vllm", 4, 1024, 128), export="2026-04-06.csv"))
    assert found["isl_range"] == found["osl_range"] == 0.8
    assert found["knobs"] == {"max_num_batched_tokens": 8192}
    assert found["requests"] == 40
