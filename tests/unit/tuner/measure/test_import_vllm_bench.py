"""Runs of vLLM's benchmark beside ours: same names where the meaning is the same, definitions of their own, gaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from controlplane.main import cli
from controlplane.model.errors import InvalidSpec
from tuner.measure.import_vllm_bench import DEFINITIONS, measurements


def run(**changes: Any) -> dict[str, Any]:
    return {
        "date": "20260101-000000", "backend": "vllm", "model_id": "qwen", "num_prompts": 100, "request_rate": "inf",
        "burstiness": 1.0, "max_concurrency": 8, "duration": 20.0, "completed": 98, "total_input_tokens": 4000,
        "total_output_tokens": 8000, "request_throughput": 4.9, "request_goodput": None, "output_throughput": 400.0,
        "mean_ttft_ms": 120.0, "median_ttft_ms": 100.0, "p99_ttft_ms": 300.0, "mean_tpot_ms": 20.0, "p90_tpot_ms": 25.0,
        "mean_e2el_ms": 2000.0,
    } | changes  # fmt: skip


def written(path: Path, body: Any) -> Path:
    path.write_text(body if isinstance(body, str) else json.dumps(body))
    return path


def test_figures_have_our_names_and_unknown_ones_are_gaps(tmp_path: Path) -> None:
    (found,) = measurements(written(tmp_path / "a.json", run()))
    assert found.definitions == DEFINITIONS and found.duration_s == 20.0
    wanted = {
        "ttft_mean_ms": 120.0, "ttft_p50_ms": 100.0, "ttft_p99_ms": 300.0, "tpot_p90_ms": 25.0, "e2e_mean_ms": 2000.0,
        "requests_per_s": 4.9, "output_tokens_per_s": 400.0, "prompt_tokens_per_s": 200.0, "requests": 100.0,
        "failed_requests": 2.0, "duration_s": 20.0,
    }  # fmt: skip
    assert {name: found.metrics[name] for name in wanted} == wanted
    assert found.metrics["goodput_per_s"] is None and found.metrics["ttft_p95_ms"] is None


def test_several_runs_and_their_loads(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(one) for one in (run(), run(duration=21.0), run(max_concurrency=16)))
    a, b, c = measurements(written(tmp_path / "a.jsonl", lines))
    assert a.load == b.load != c.load and (a.duration_s, b.duration_s) == (20.0, 21.0)
    (listed,) = measurements(written(tmp_path / "b.json", [run(failed=0, ttfts=[0.1, 0.2, 0.3])]))
    assert listed.metrics["failed_requests"] == 0.0 and listed.metrics["ttft_p95_ms"] == pytest.approx(290.0)


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "[1]", {"duration": "long"}, {"duration": float("nan")}, run(ttfts=["x"]), "\x80\x04K\x01."]
)
def test_what_is_no_run_is_refused_with_its_place(tmp_path: Path, body: Any) -> None:
    with pytest.raises(InvalidSpec) as refused:
        measurements(written(tmp_path / "a.json", body))
    assert "a.json" in str(refused.value)


def test_two_files_can_be_compared(tmp_path: Path) -> None:
    fast = written(tmp_path / "fast.json", [run(output_throughput=400.0 + n) for n in range(4)])
    slow = written(tmp_path / "slow.json", [run(output_throughput=300.0 + n) for n in range(4)])
    words = ["tune", "compare", str(fast), str(slow), "--objective", "output_tokens_per_s", "-o", "json"]
    ran = CliRunner().invoke(cli, words)
    assert ran.exit_code == 0, ran.output
    assert "faster" in ran.stdout
