"""Measured runs from benchmark logs and tables: what is read, what is refused and how it is said."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName
from tuner.serving.calibration import importers
from tuner.serving.calibration.import_tables import read_csv, read_jsonl, read_silicon
from tuner.serving.calibration.import_vllm import read as read_vllm
from tuner.serving.calibration.importers import find_importer, known_importers
from tuner.serving.question import Span

CASE = {"system": "h100_sxm", "backend": "vllm", "tp": 4}


def _run(**changed: Any) -> dict[str, Any]:
    return {
        "date": "20261101-120000",
        "model_id": "Qwen/Qwen3-32B",
        "num_prompts": 640,
        "request_rate": "inf",
        "max_concurrency": 64,
        "completed": 640,
        "total_input_tokens": 640 * 1000,
        "total_output_tokens": 640 * 250,
        "mean_ttft_ms": 310.5,
        "median_ttft_ms": 250.0,
        "p99_ttft_ms": 900.0,
        "mean_tpot_ms": 14.5,
        "median_tpot_ms": 14.0,
        "p99_tpot_ms": 19.0,
    } | changed


def _write(path: Path, *runs: object, lines: bool = False) -> Path:
    path.write_text("\n".join(json.dumps(run) for run in runs) if lines else json.dumps(runs[0]))
    return path


def test_a_closed_loop_of_vllm(tmp_path: Path) -> None:
    (found,) = read_vllm(_write(tmp_path / "a.json", _run()), CASE)
    question = found.question
    assert (question.model, question.arrivals.kind, question.arrivals.clients) == ("Qwen/Qwen3-32B", "closed", 64)
    assert question.requests == 640
    assert (question.input, question.output) == (Span(low=1000, high=1000), Span(low=250, high=250))
    assert found.ttft_ms == {"mean": 310.5, "p50": 250.0, "p99": 900.0}
    assert found.tpot_ms == {"mean": 14.5, "p50": 14.0, "p99": 19.0}
    assert found.source == "a.json#1"


def test_rates_and_burstiness(tmp_path: Path) -> None:
    runs = [_run(request_rate=5.0, max_concurrency=None), _run(request_rate=5.0, max_concurrency=None, burstiness=0.25)]
    path = _write(tmp_path / "a.jsonl", *runs, lines=True)
    poisson, gamma = (found.question.arrivals for found in read_vllm(path, CASE))
    assert (poisson.kind, poisson.rate_per_s) == ("poisson", 5.0)
    assert (gamma.kind, gamma.rate_per_s, gamma.cv) == ("gamma", 5.0, 2.0)


def test_all_at_once_is_a_closed_loop_of_everybody(tmp_path: Path) -> None:
    (found,) = read_vllm(_write(tmp_path / "a.json", _run(max_concurrency=None)), CASE)
    assert found.question.arrivals.clients == 640


def test_detailed_logs_give_length_spans_and_percentiles(tmp_path: Path) -> None:
    detailed = _run(
        completed=4,
        input_lens=[800, 1000, 900, 820],
        output_lens=[8, 10, 9, 10],
        ttfts=[0.1, 0.2, 0.3, 0.4],
    )
    (found,) = read_vllm(_write(tmp_path / "a.json", detailed), CASE)
    assert found.question.input == Span(low=800, high=1000)
    assert found.question.output == Span(low=8, high=10)
    assert found.ttft_ms["p90"] == pytest.approx(370.0)
    assert found.ttft_ms["p50"] == 250.0, "what the log states wins"


def test_the_case_corrects_the_log(tmp_path: Path) -> None:
    case = {**CASE, "model": "qwen3-32b", "isl": 512}
    (found,) = read_vllm(_write(tmp_path / "a.json", _run()), case)
    assert found.question.model == "qwen3-32b"
    assert found.question.input == Span(low=512, high=512)


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (_run(failed=3), "failed"),
        (_run(request_rate=3.0), "max_concurrency"),
        ({"model_id": "m"}, "no ttft"),
        (_run(ttfts=["a"]), "ttfts"),
        (_run(total_input_tokens=None), "isl"),
        ([], "no run"),
        (["text"], "must be an object"),
    ],
)
def test_unusable_runs(tmp_path: Path, run: object, says: str) -> None:
    with pytest.raises(InvalidSpec, match=says):
        read_vllm(_write(tmp_path / "a.json", run), CASE)


def test_a_log_without_its_case_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TrimtabError) as caught:
        read_vllm(_write(tmp_path / "a.json", _run()), {"system": "h100_sxm", "backend": "vllm"})
    assert caught.value.field == "a.json#1: tp"


def test_no_json_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("not json")
    with pytest.raises(InvalidSpec, match="not JSON"):
        read_vllm(path, CASE)
    with pytest.raises(InvalidSpec, match="cannot be read"):
        read_vllm(tmp_path / "absent.json", CASE)


def test_plain_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "model,system,backend,tp,isl,osl,closed,poisson,knobs.max_num_seqs,ttft_mean_ms,ttft_p99_ms,tpot_mean_ms\n"
        "qwen3-32b,h100_sxm,vllm,4,1024,256,32,,128,100,400,12.5\n"
        "qwen3-32b,h100_sxm,vllm,4,1024,256,,2.5,,90,300,11\n"
    )
    closed, rate = read_csv(path, {})
    assert closed.question.arrivals.clients == 32
    assert closed.question.knobs == {"max_num_seqs": 128}
    assert closed.ttft_ms == {"mean": 100.0, "p99": 400.0}
    assert rate.question.arrivals.rate_per_s == 2.5
    assert rate.source == "a.csv:3"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("model,gpu,tp\n", "a.csv:1"),
        ("model,system,backend,tp,isl,osl,closed,ttft_mean_ms,tpot_mean_ms\nm,s,vllm,x,1,1,1,1,1\n", "a.csv:2: tp"),
        ("model,system,backend,tp,isl,osl,closed,ttft_mean_ms,tpot_mean_ms\nm,s,vllm,1,1,1,1,NaN,1\n", "a.csv:2"),
        ("model,system,backend,tp,isl,osl,closed,tpot_mean_ms\nm,s,vllm,1,1,1,1,1\n", "measured.ttft_ms"),
    ],
)
def test_unusable_tables(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(TrimtabError) as caught:
        read_csv(path, {})
    assert field in str(caught.value.field)


def test_json_lines(tmp_path: Path) -> None:
    line = {
        **CASE,
        "model": "qwen3-32b",
        "isl": 100,
        "osl": 10,
        "arrivals": {"closed": 1},
        "measured": {"ttft_ms": {"p50": 9.0}, "tpot_ms": {"mean": 2.0}},
    }
    (found,) = read_jsonl(_write(tmp_path / "a.jsonl", line, lines=True), {"tp": 8})
    assert found.question.degrees is not None
    assert found.question.degrees.tp == 8
    assert found.ttft_ms == {"p50": 9.0}
    for broken, field in ((line | {"measured": {}}, "ttft_ms"), (line | {"measurd": {}}, "measurd")):
        with pytest.raises(TrimtabError) as caught:
            read_jsonl(_write(tmp_path / "b.jsonl", broken, lines=True), {})
        assert field in str(caught.value.field)


def test_the_sample_schema(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "backend,model_path,system,mode,isl,osl,tp_size,batch_size,silicon_ttft_ms,silicon_tpot_ms\n"
        "vllm,Qwen/Qwen3-32B,h100_sxm,agg,1024,256,4,16,100,12\n"
        "vllm,Qwen/Qwen3-32B,h100_sxm,disagg,1024,256,,,100,12\n"
    )
    (found,) = read_silicon(path, {})
    assert found.question.arrivals.clients == 16
    assert found.question.input == Span(low=819, high=1024)
    with pytest.raises(InvalidSpec, match="own case"):
        read_silicon(path, {"tp": 4})


def test_formats_are_found_by_name() -> None:
    assert {"csv", "jsonl", "silicon", "vllm-bench"} <= set(known_importers())
    assert find_importer("vllm-bench") is read_vllm
    with pytest.raises(UnknownName, match="vllm-bench"):
        find_importer("vllm_bnch")


def test_other_formats_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("mine", "tuner.serving.calibration.import_tables:read_csv", importers.GROUP)]
    monkeypatch.setattr(importers, "entry_points", lambda group: points)
    assert find_importer("mine") is read_csv
    points.append(EntryPoint("csv", "somewhere:else", importers.GROUP))
    with pytest.raises(InvalidSpec, match="two importers"):
        known_importers()


def test_a_huge_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importers, "MAX_FILE_BYTES", 10)
    with pytest.raises(InvalidSpec, match="must be a file"):
        read_vllm(_write(tmp_path / "a.json", _run()), CASE)
