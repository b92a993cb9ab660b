"""`trimtab predict serving` and `trimtab simulate`: streams, formats, files, one line for each mistake."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from controlplane.cli.progress import Progress, told_when_slow
from controlplane.main import cli
from controlplane.model.errors import TrimtabError

CASE = [
    *("--model", "llama-3.1-8b", "--system", "mi300x", "--backend", "vllm", "--tp", "1"),
    *("--isl", "512", "--osl", "32", "--closed", "4"),
]
LINE: dict[str, Any] = {
    "id": "a",
    "model": "llama-3.1-8b",
    "system": "mi300x",
    "backend": "vllm",
    "tp": 1,
    "isl": 512,
    "osl": 32,
    "arrivals": {"closed": 4},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRIMTAB_CACHE_DIR", str(tmp_path / "cache"))
    yield


def _call(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), input=input, catch_exceptions=True)


def _json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_one_case_as_a_table_and_as_json() -> None:
    table = _call("predict", "serving", *CASE)
    assert table.exit_code == 0, table.output
    assert "TTFT" in table.stdout and "tier: roofline" in table.stdout
    assert "cost per million output tokens: unknown" in table.stdout
    assert "\nrequests/s: " in table.stdout
    answer = _json(_call("predict", "serving", *CASE, "-o", "json"))
    assert answer["tier"] == "roofline"
    assert "id" not in answer


def test_knobs_and_prices_reach_the_case() -> None:
    answer = _json(
        _call(
            *("predict", "serving", *CASE, "--knob", "max_num_seqs=1", "--knob", "prefix_caching=false"),
            *("--price", "2", "-o", "json", "--per-request"),
        )
    )
    assert answer["cost_per_million_output_tokens"] > 0
    assert len(answer["per_request"]["ttft_ms"]) == 40


def test_lines_from_a_file_and_from_standard_input(tmp_path: Path) -> None:
    text = "\n".join(json.dumps(line) for line in (LINE, {"id": "b"}, LINE | {"id": "c"})) + "\n"
    path = tmp_path / "cases.jsonl"
    path.write_text(text)
    outputs = [
        _call("predict", "serving", str(path)),
        _call("predict", "serving", "-", input=text),
        _call("predict", "serving", input=text),
    ]
    for found in outputs:
        assert found.exit_code == 0
        answers = [json.loads(line) for line in found.stdout.splitlines()]
        assert [answer["id"] for answer in answers] == ["a", "b", "c"]
        assert answers[1]["error"]["field"] == "arrivals"
        assert "1 of 3 lines" in found.stderr
    assert len({found.stdout for found in outputs}) == 1


def test_a_trace_beside_the_lines(tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text('{"arrival_s": 0, "isl": 100, "osl": 4}\n' * 3)
    line = {key: value for key, value in LINE.items() if key not in ("isl", "osl")}
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(line | {"arrivals": {"trace": "calls.jsonl"}}))
    assert json.loads(_call("predict", "serving", str(path)).stdout)["requests"] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "serving", "-", *CASE], "not both"),
        (["predict", "serving", *CASE, "--knob", "novalue"], "NAME=VALUE"),
        (["predict", "serving", "-", "-o", "table"], "leave -o out"),
        (["predict", "serving", "absent.jsonl"], "absent.jsonl"),
        (["predict", "serving", "--tp", "1"], "--model, --system, --backend, --isl, --osl, --closed or --poisson"),
        (["predict", "serving", *CASE, "--poisson", "2"], "--closed or --poisson, not both"),
        (["simulate", "--model", "llama-3.1-8b"], "--trace"),
        (["simulate", "--trace", __file__, "--tp", "1"], "--model, --system, --backend"),
        (["simulate", "--trace", "absent.csv"], "absent.csv"),
    ],
)
def test_usage_errors_end_with_2(arguments: list[str], says: str) -> None:
    found = _call(*arguments, input="")
    assert found.exit_code == 2
    assert says in found.output


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("--model", "llama-3.1-8"), "did you mean llama-3.1-8b"),
        (("--system", "mi300"), "mi300x"),
        (("--backend", "vlm"), "vllm"),
        (("--tp", "0"), "tp: out of range"),
        (("--knob", "max_num_seq=4"), "max_num_seqs"),
        (("--calibration", __file__), "not a calibration"),
    ],
)
def test_mistakes_in_a_case_cost_one_line(changed: tuple[str, str], says: str) -> None:
    found = _call("predict", "serving", *CASE, *changed)
    assert isinstance(found.exception, TrimtabError)
    assert says in str(found.exception)
    assert found.stdout == ""


def test_mistakes_end_the_process_with_2_and_one_line() -> None:
    line = [sys.executable, "-m", "controlplane", "predict", "serving", *CASE, "--model", "nothing-like-it"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("trimtab: model: unknown model")
    assert done.stderr.count("\n") == 1


def test_simulate_writes_what_it_was_asked_for(tmp_path: Path) -> None:
    trace = tmp_path / "calls.csv"
    rows = [f"2023-11-16 18:15:{second:02}.0000000,{100 + second},{5}" for second in range(30)]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    case = [item for item in CASE if item not in ("--isl", "512", "--osl", "32", "--closed", "4")]
    table, page = tmp_path / "requests.csv", tmp_path / "report.html"
    found = _call("simulate", "--trace", str(trace), *case, "--csv", str(table), "--html", str(page), "-o", "json")
    assert _json(found)["requests"] == 30
    with table.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [int(row["isl"]) for row in written] == [100 + second for second in range(30)]
    assert page.read_text().startswith("<!DOCTYPE html>")
    left = {path.name for path in tmp_path.iterdir()} - {"cache"}
    assert left == {"calls.csv", "report.html", "requests.csv"}, "no partial file stays behind"


def test_simulate_draws_traffic_when_there_is_no_trace(tmp_path: Path) -> None:
    assert _json(_call("simulate", *CASE, "-o", "json"))["requests"] == 40
    refused = _call("simulate", "--trace", __file__, *CASE)
    assert refused.exit_code == 2
    assert "--closed" in refused.output


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    found = _call("simulate", *CASE, "--csv", str(tmp_path / "no-folder" / "requests.csv"))
    assert isinstance(found.exception, TrimtabError)
    assert "no-folder" in str(found.exception)


class _Terminal:
    def __init__(self, terminal: bool) -> None:
        self.text, self._terminal = "", terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_silent_for_two_seconds(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("controlplane.cli.progress.time.monotonic", lambda: now[0])
    stream = _Terminal(terminal)
    with Progress("lines", 100, stream=stream) as tell:  # type: ignore[arg-type]
        for done in range(1, 101):
            now[0] += 0.05
            tell(done)
            if now[0] < 1.99:
                assert stream.text == ""
    assert "of 100" in stream.text
    assert stream.text.count("lines") < 20
    assert stream.text.endswith("\r\x1b[K") is terminal


def test_a_long_wait_is_explained_once(capsys: pytest.CaptureFixture[str]) -> None:
    with told_when_slow("waiting for the table", after_s=0.0):
        time.sleep(0.05)
    with told_when_slow("not a word", after_s=60.0):
        pass
    assert capsys.readouterr().err == "waiting for the table\n"
