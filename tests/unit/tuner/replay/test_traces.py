"""Trace files: what is read, what is shared between requests, and errors that name line and field."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from controlplane.model.errors import InvalidSpec
from tests.unit.tuner.replay.cases import one
from tuner.serving.replay.run import simulate
from tuner.serving.replay.traces import read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
TRACES = Path(__file__).parents[4].parent / "shared" / "traces" / "azure-llm-2023"


def write(folder: Path, text: str) -> Path:
    path = folder / "t.trace"
    path.write_bytes(text.encode())
    return path


def test_azure_times_keep_their_seventh_decimal(tmp_path: Path) -> None:
    rows = "2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.0319601,3180,8"
    requests = read_trace(write(tmp_path, AZURE + rows))
    assert requests.arrival_s == pytest.approx([0.0, 0.0520001], abs=1e-7)
    assert requests.isl.tolist() == [4808, 3180] and requests.osl.tolist() == [10, 8]


@pytest.mark.skipif(not TRACES.is_dir(), reason="the Azure traces are not beside the checkout")
@pytest.mark.parametrize(
    ("name", "rows", "span", "tokens"), [("code", 8819, 3435.95, 18059974), ("conv", 19366, 3501.72, 22361870)]
)
def test_azure_2023(name: str, rows: int, span: float, tokens: int) -> None:
    requests = read_trace(TRACES / f"AzureLLMInferenceTrace_{name}.csv")
    assert len(requests) == rows and requests.isl.sum() == tokens
    assert requests.arrival_s[-1] == pytest.approx(span, abs=0.01)


def test_our_lines_are_sorted_and_carry_tenants_and_sessions(tmp_path: Path) -> None:
    rows = [
        {"arrival_s": 9.0, "isl": 300, "osl": 5, "session": "s", "tenant": "b"},
        {"arrival_s": 1.0, "isl": 100, "osl": 50, "session": "s", "tenant": "a", "priority": 1},
    ]
    requests = read_trace(write(tmp_path, "\n".join(map(json.dumps, rows))))
    assert requests.arrival_s.tolist() == [0.0, 8.0]
    assert requests.tenant is not None and [requests.tenants[k] for k in requests.tenant] == ["a", "b"]
    assert requests.priority is not None and requests.priority.tolist() == [1, 0]
    assert requests.isl.tolist() == [100, 300]
    result = simulate(one(kv_blocks=1000), requests)
    assert result.prefix_hit_tokens.tolist() == [0, 144]  # 149 tokens of the first turn, in whole blocks of 16


def test_mooncake_hashes_are_shared_blocks(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1200, "output_length": 4, "hash_ids": [7, 8, 9]},
        {"timestamp": 90000, "input_length": 1100, "output_length": 4, "hash_ids": [7, 8, 77]},
        {"timestamp": 180000, "input_length": 1100, "output_length": 4, "hash_ids": [1, 8, 77]},
    ]
    requests = read_trace(write(tmp_path, "\n".join(map(json.dumps, rows))))
    assert requests.arrival_s.tolist() == [0.0, 90.0, 180.0]
    assert simulate(one(kv_blocks=1000), requests).prefix_hit_tokens.tolist() == [0, 1024, 0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("a,b\n1,2\n", "t.trace:1"),
        (AZURE, "no requests"),
        (AZURE + "2023-11-16 18:17:03,5\n", "t.trace:2"),
        (AZURE + "yesterday,5,5\n", "t.trace:2 TIMESTAMP"),
        (AZURE + "2023-11-16 18:17:03.x,5,5\n", "t.trace:2 TIMESTAMP"),
        (AZURE + "2023-11-16 18:17:03,5,zero\n", "t.trace:2 GeneratedTokens"),
        ('{"arrival_s": 0, "isl": 1, "osl": 1}\n{"arrival_s": 0, "isl": -1, "osl": 1}', "t.trace:2 isl"),
        ('{"arrival_s": "soon", "isl": 1, "osl": 1}', "t.trace:1 arrival_s"),
        ('{"arrival_s": 1e999, "isl": 1, "osl": 1}', "t.trace:1 arrival_s"),
        ('{"arrival_s": 0, "isl": true, "osl": 1}', "t.trace:1 isl"),
        ('{"arrival_s": 0, "isl": 1, "osl": 1, "isls": 2}', "t.trace:1 isls"),
        ('{"arrival_s": 0, "isl": 1, "osl": 1, "priority": 99}', "t.trace:1 priority"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": ["x"]}', "t.trace:1 hash_ids"),
        ('{"arrival_s": 0', "t.trace:1"),
        ("[" * 100_000, "t.trace:1"),
        ('{"a":' * 100_000, "t.trace:1"),
    ],
)
def test_errors_name_line_and_field(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read_trace(write(tmp_path, text))
    assert says in str(caught.value)


def test_clock_times_are_told_to_count_from_the_start(tmp_path: Path) -> None:
    rows = ('{"arrival_s": 1763700000, "isl": 1, "osl": 1}', '{"timestamp": 1763700000000, "input_length": 1}')
    for text in rows:
        with pytest.raises(InvalidSpec, match="not a time") as caught:
            read_trace(write(tmp_path, text))
        assert "subtract" in str(caught.value.hint)


def test_limit_and_bounds(tmp_path: Path) -> None:
    line = '{"arrival_s": 0, "isl": 1, "osl": 1}\n'
    assert len(read_trace(write(tmp_path, line * 10), limit=4)) == 4
    with pytest.raises(InvalidSpec, match="too long"):
        read_trace(write(tmp_path, line + " " * (1 << 21)))
    with pytest.raises(InvalidSpec, match="cannot be read"):
        read_trace(tmp_path / "nowhere")
    assert np.all(read_trace(write(tmp_path, line * 3)).arrival_s == 0)
