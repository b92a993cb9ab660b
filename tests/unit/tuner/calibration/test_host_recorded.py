"""The fit on what a client of the embedded engine really saw (`data/host_streams.json` says when and where)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tuner.serving.calibration.host_engine import fit
from tuner.serving.calibration.host_streams import Interval, Stream, intervals_of
from tuner.serving.replay.rules import rules_with_knobs
from tuner.serving.step.lookup import context_step_ms, decode_step_ms

RUNS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "host_streams.json").read_text(encoding="utf-8")
)["runs"]


def streams_of(run: dict[str, Any]) -> list[Stream]:
    return [
        Stream(issued / 1e4, prompt, tuple(moment / 1e4 for moment in itertools.accumulate(times)))
        for issued, prompt, times in run["streams"]
    ]


def intervals(run: dict[str, Any]) -> list[Interval]:
    return intervals_of(streams_of(run), rules_with_knobs("openvino", run["knobs"]))


@pytest.mark.parametrize("run", RUNS, ids=["split-64 closed-6", "split-256 open"])
def test_the_engine_follows_the_rules_that_the_replay_has(run: dict[str, Any]) -> None:
    found = intervals(run)
    tokens = sum(len(stream.token_s) for stream in streams_of(run))
    told = sum(shape.decodes for interval in found for shape in interval.iterations)
    # First tokens are no decodes, and the run is cut off in the middle.
    assert told > 0.9 * (tokens - len(run["streams"]))


def test_the_fit_of_both_runs() -> None:
    found = fit([*intervals(RUNS[0]), *intervals(RUNS[1])], source="recorded")
    table = found.table
    assert found.error_pct < 40
    assert 0 < found.request_ms < 10
    assert 1 < decode_step_ms(table, 1, 150) < 4
    assert decode_step_ms(table, 1, 150) < decode_step_ms(table, 6, 150) < 8
    # A prompt of 200 tokens takes several times as long as a decode of six sequences.
    assert 15 < context_step_ms(table, 1, 200, 0) < 50
