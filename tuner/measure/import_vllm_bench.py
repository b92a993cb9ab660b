"""Runs of `vllm bench serve --save-result` as measurements, so that earlier runs stand beside ours.

They follow definitions of their own: TTFT counts from the moment a request was sent, not from when it was meant to be,
and whether client and server agree was not looked at. What the file does not state is None.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import Measurement
from tuner.measure.definitions import PERCENTILES
from tuner.serving.calibration.import_vllm import latencies, runs_of

DEFINITIONS = "vllm-bench"
# Ours -> theirs.
_LATENCIES = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2el"}
_FIGURES = {
    "duration_s": "duration",
    "requests_per_s": "request_throughput",
    "output_tokens_per_s": "output_throughput",
    "goodput_per_s": "request_goodput",
}
_LOAD = ("model_id", "request_rate", "burstiness", "max_concurrency", "num_prompts", "total_input_tokens")


def measurements(path: Path) -> list[Measurement]:
    """One for each run of the file: one object, a list of them, or one a line. Raises InvalidSpec."""
    return [_measurement(run, f"{path.name}#{number}") for number, run in enumerate(runs_of(path), 1)]


def _measurement(run: Mapping[str, Any], source: str) -> Measurement:
    metrics: dict[str, float | None] = {ours: _figure(run.get(theirs)) for ours, theirs in _FIGURES.items()}
    for ours, theirs in _LATENCIES.items():
        found = latencies(run, theirs, source)
        for statistic in ("mean", *(f"p{percent}" for percent in PERCENTILES)):
            metrics[f"{ours}_{statistic}_ms"] = found.get(statistic)
    completed, asked, failed = (_figure(run.get(name)) for name in ("completed", "num_prompts", "failed"))
    metrics["requests"] = asked if asked is not None else completed
    metrics["failed_requests"] = failed if failed is not None else _less(asked, completed)
    duration_s, prompts = metrics["duration_s"], _figure(run.get("total_input_tokens"))
    metrics["prompt_tokens_per_s"] = None if prompts is None or not duration_s else prompts / duration_s
    if duration_s is None:
        raise InvalidSpec(
            "is no run of the benchmark",
            field=f"{source}.duration",
            hint="expected the file that `vllm bench serve --save-result` writes",
        )
    return Measurement(
        metrics=metrics,
        definitions=DEFINITIONS,
        duration_s=duration_s,
        load=hashlib.sha256(json.dumps([str(run.get(name)) for name in _LOAD]).encode()).hexdigest()[:32],
    )


def _less(asked: float | None, completed: float | None) -> float | None:
    return None if asked is None or completed is None else max(0.0, asked - completed)


def _figure(value: object) -> float | None:
    """A number of 0 or more; anything else is unknown."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None
