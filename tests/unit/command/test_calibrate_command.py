"""`trimtab calibrate serving` and `trimtab accuracy serving`: files in, before and after out, atomic writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from controlplane.main import cli
from controlplane.model.errors import TrimtabError
from tuner.serving.predict import Predictor
from tuner.serving.question import parse_question

CASE = ("--system", "mi300x", "--backend", "vllm", "--tp", "1", "--model", "llama-3.1-8b")


def _call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def _bench(path: Path, clients: int, slower: float = 1.5) -> Path:
    """What `vllm bench serve` would save of an engine that is `slower` than predicted."""
    line = {"model": "llama-3.1-8b", "system": "mi300x", "backend": "vllm", "tp": 1, "isl": 512, "osl": 64}
    answer = Predictor().answer(parse_question(line | {"arrivals": {"closed": clients}, "requests": 10 * clients}))
    run = {
        "model_id": "meta-llama/Llama-3.1-8B",
        "max_concurrency": clients,
        "request_rate": "inf",
        "completed": 10 * clients,
        "total_input_tokens": 5120 * clients,
        "total_output_tokens": 640 * clients,
        "mean_ttft_ms": answer["ttft_ms"]["mean"] * slower,
        "mean_tpot_ms": answer["tpot_ms"]["mean"] * slower,
    }
    path.write_text(json.dumps(run))
    return path


@pytest.fixture
def logs(tmp_path: Path) -> list[str]:
    found: list[str] = []
    for clients in (1, 4, 8, 16, 32, 64):
        found += ["--vllm-bench", str(_bench(tmp_path / f"c{clients}.json", clients))]
    return found


def test_benchmark_logs_become_a_calibration(logs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    dry = _call("calibrate", "serving", *logs, *CASE, "--out", str(out), "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "before" in dry.stdout and "after" in dry.stdout and "nothing written" in dry.stdout
    assert not out.exists()
    found = json.loads(_call("calibrate", "serving", *logs, *CASE, "--out", str(out), "-o", "json").stdout)
    assert found["written"] == str(out)
    assert found["after"]["tpot"]["median_pct"] < 5 < found["before"]["tpot"]["median_pct"]
    case = [*CASE, "--isl", "512", "--osl", "64", "--closed", "8", "-o", "json"]
    plain, mine = (
        json.loads(_call("predict", "serving", *case, *more).stdout) for more in ((), ("--calibration", str(out)))
    )
    assert mine["tpot_ms"]["mean"] == pytest.approx(1.5 * plain["tpot_ms"]["mean"], rel=0.06)


def test_a_fit_that_predicts_worse_is_not_written(
    logs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuner.serving.calibration import refit

    monkeypatch.setattr(refit, "_fit", lambda *_: {"prefill": 2.0, "decode": 2.0})
    out = tmp_path / "mine.json"
    found = _call("calibrate", "serving", *logs, *CASE, "--out", str(out))
    assert found.exit_code == 1, found.output
    assert "worse than before: TTFT after" in found.stdout and "--force" in found.stdout
    assert not out.exists()
    forced = _call("calibrate", "serving", *logs, *CASE, "--out", str(out), "--force", "-o", "json")
    assert forced.exit_code == 0, forced.output
    assert json.loads(forced.stdout)["harmful"] is True and out.exists()


def _page(count: int, ttft_s: float = 0.05, tpot_s: float = 0.01) -> str:
    """A vLLM metrics page after `count` requests."""
    lines = []
    for name, mean in (("time_to_first_token_seconds", ttft_s), ("inter_token_latency_seconds", tpot_s)):
        series = f"vllm:{name}"
        lines += [f"# TYPE {series} histogram"]
        for bound, share in ((0.02, 0.2), (0.1, 0.95), ("+Inf", 1.0)):
            lines.append(f'{series}_bucket{{le="{bound}"}} {count * float(share)}')
        lines += [f"{series}_sum {count * mean}", f"{series}_count {count}"]
    for name, tokens in (("prompt", 512), ("generation", 64)):
        lines += [f"# TYPE vllm:{name}_tokens counter", f"vllm:{name}_tokens_total {count * tokens}"]
    return "\n".join(lines) + "\n"


def test_pages_of_several_loads_are_several_runs(tmp_path: Path) -> None:
    words: list[str] = []
    for clients in (1, 8, 32):
        page = tmp_path / f"c{clients}.txt"
        page.write_text(_page(20 * clients, 0.02 * clients, 0.01))
        words += ["--metrics", f"{page},closed={clients}"]
    found = json.loads(_call("calibrate", "serving", *words, *CASE, "--dry-run", "-o", "json").stdout)
    assert found["after"]["ttft"]["rows"] == 3
    assert len(found["digest"]) == 12
    two = _call("calibrate", "serving", *words[:4], *CASE, "--dry-run")
    assert "too few runs" in str(two.exception)


def test_metrics_pages(tmp_path: Path) -> None:
    from controlplane.cli.measured_pages import measurement_of_pages

    before, after = tmp_path / "before.txt", tmp_path / "after.txt"
    before.write_text(_page(100))
    after.write_text(_page(500))
    case = {"model": "llama-3.1-8b", "system": "mi300x", "backend": "vllm", "tp": 1, "arrivals": {"closed": 8}}
    found = measurement_of_pages(after, before, case)
    assert found.question.requests == 400
    assert found.question.input is not None and found.question.output is not None
    assert (found.question.input.high, found.question.output.high) == (512, 64)
    assert found.ttft_ms["mean"] == pytest.approx(50.0)
    assert found.ttft_ms["p50"] == pytest.approx(20 + 80 * (0.5 - 0.2) / 0.75)
    assert "p99" not in found.ttft_ms, "the open last bucket only bounds it"
    assert found.tpot_ms == {"mean": 10.0}, "gaps between tokens say nothing of requests' percentiles"
    with pytest.raises(TrimtabError, match="restarted"):
        measurement_of_pages(before, after, case)
    with pytest.raises(TrimtabError, match="backend"):
        measurement_of_pages(after, None, {})
    with pytest.raises(TrimtabError, match="cannot be read"):
        measurement_of_pages(tmp_path / "absent", None, case)
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(TrimtabError, match="no ttft"):
        measurement_of_pages(empty, None, case)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name measured runs"),
        (["--metrics-before", __file__], "--metrics"),
    ],
)
def test_usage(arguments: list[str], says: str) -> None:
    found = _call("calibrate", "serving", *arguments)
    assert found.exit_code == 2
    assert says in found.output


def test_mistakes_leave_no_file(tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    log = _bench(tmp_path / "c1.json", 1)
    for arguments in (
        ["--vllm-bench", str(log)],
        ["--vllm-bench", str(log), *CASE],
        ["--data", str(log), "--format", "cvs"],
    ):
        found = _call("calibrate", "serving", *arguments, "--out", str(out))
        assert isinstance(found.exception, TrimtabError)
    assert not out.exists()


def _sample(path: Path) -> Path:
    rows = "".join(f"vllm,Llama-3.1-8B,mi300x,agg,512,64,1,{n},{50 + n},{5 + n / 10}\n" for n in (1, 2, 4, 8))
    rows += "vllm,no-such-model,mi300x,agg,512,64,1,4,50,5\n"
    path.write_text(
        "backend,model_path,system,mode,isl,osl,tp_size,batch_size,silicon_ttft_ms,silicon_tpot_ms\n" + rows
    )
    return path


def test_accuracy_of_any_file_in_the_schema(tmp_path: Path) -> None:
    path = _sample(tmp_path / "mine.csv")
    found = json.loads(_call("accuracy", "serving", "--data", str(path), "--split", "all", "-o", "json").stdout)
    tpot: dict[str, Any] = found["metrics"]["agg"]["tpot"]
    assert (tpot["overall"]["rows"], tpot["overall"]["answered"], tpot["overall"]["coverage_pct"]) == (5, 4, 80.0)
    assert tpot["overall"]["interval"]["n"] == 4
    assert tpot["by"]["tier"]["none"]["rows"] == 1
    assert sum(found["misses"]["agg"].values()) == 1
    table = _call("accuracy", "serving", "--data", str(path), "--split", "all").stdout
    assert "TPOT, agg" in table and "1 agg rows without an answer" in table


def test_a_look_at_the_test_rows_is_warned_of_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE_DIR", str(tmp_path / "cache"))
    path = _sample(tmp_path / "mine.csv")  # of which none is held out: nothing real is looked at
    found = _call("accuracy", "serving", "--data", str(path), "--split", "test", "-o", "json")
    assert found.exit_code == 0, found.output
    assert "once per release" in found.stderr
    (line,) = (tmp_path / "cache" / "accuracy-test.jsonl").read_text().splitlines()
    assert json.loads(line)["data"] == "mine.csv"
