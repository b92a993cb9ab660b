"""Reads what `vllm bench serve --save-result` writes (also with --save-detailed, and files of several runs).

The log names model, load and lengths, not accelerator, parallel degrees or engine settings: those are the user's case.
SGLang's and TensorRT-LLM's serving benchmarks descend from the same script and write the same names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.model.errors import InvalidSpec, TrimtabError
from tuner.serving.calibration.importers import MAX_ROWS, readable
from tuner.serving.calibration.measurement import MAX_LATENCY_MS, Measurement, with_case
from tuner.serving.question import MAX_TOKENS, parse_question

_STATISTICS = {"mean": "mean", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}


def read(path: Path, case: Mapping[str, Any]) -> list[Measurement]:
    """One Measurement for each run: the file holds one object, a list of them, or one a line."""
    return [_measurement(run, case, f"{path.name}#{number}") for number, run in enumerate(runs_of(path), 1)]


def runs_of(path: Path) -> list[Mapping[str, Any]]:
    """The benchmark's own objects, one for each run. Raises InvalidSpec."""
    text = readable(path).read_text(encoding="utf-8", errors="replace")
    runs: list[Any]
    try:
        try:
            whole = json.loads(text)
            runs = whole if isinstance(whole, list) else [whole]
        except ValueError:
            runs = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"is not JSON: {error}", field=str(path)) from None
    if not runs or len(runs) > MAX_ROWS:
        raise InvalidSpec("holds no run", field=str(path), value=len(runs), limit=f"1 to {MAX_ROWS} runs")
    for number, run in enumerate(runs, 1):
        if not isinstance(run, Mapping):
            raise InvalidSpec("must be an object", field=f"{path.name}#{number}")
    return runs


def _measurement(run: Mapping[str, Any], case: Mapping[str, Any], source: str) -> Measurement:
    ttft, tpot = _needed(run, "ttft", source), _needed(run, "tpot", source)
    failed = run.get("failed")
    if isinstance(failed, int) and failed > 0:
        raise InvalidSpec(
            f"{failed} requests failed: what was measured is not the load that was asked for",
            field=f"{source}.failed",
            value=failed,
            limit="0",
        )
    try:
        question = parse_question(with_case(case, _load(run)))
    except TrimtabError as error:
        hint = error.hint or "give it in the case: a benchmark log does not name it"
        raise type(error)(
            error.message, field=f"{source}: {error.field}", value=error.value, limit=error.limit, hint=hint
        ) from None
    return Measurement(question=question, ttft_ms=ttft, tpot_ms=tpot, source=source)


def _load(run: Mapping[str, Any]) -> dict[str, Any]:
    """Batch-interface fields that the run states; None where it does not."""
    completed = _count(run.get("completed")) or _count(run.get("num_prompts"))
    found: dict[str, Any] = {
        "model": run.get("model_id"),
        "requests": completed,
        "arrivals": _arrivals(run),
    }
    for field, lengths, total in (
        ("isl", "input_lens", "total_input_tokens"),
        ("osl", "output_lens", "total_output_tokens"),
    ):
        listed, tokens = run.get(lengths), _count(run.get(total))
        if isinstance(listed, list) and listed and all(_count(item) for item in listed):
            found[field] = max(listed)
            found[f"{field}_range"] = [min(listed), max(listed)]
        elif tokens and completed:
            found[field] = max(1, round(tokens / completed))
    return found


def _arrivals(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """`request_rate` is "inf" (or null) when only `max_concurrency` holds clients back: a closed loop."""
    clients, rate = _count(run.get("max_concurrency")), run.get("request_rate")
    if isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < 1e6:
        if clients is not None:
            raise InvalidSpec(
                "a rate and a limit of clients together cannot be replayed yet",
                field="max_concurrency",
                value=clients,
                hint="measure with one of --request-rate and --max-concurrency",
            )
        burstiness = run.get("burstiness", 1.0)
        if isinstance(burstiness, int | float) and burstiness > 0 and burstiness != 1.0:
            # vLLM draws gaps from a gamma distribution of this shape, whose coefficient of variation is 1 / sqrt(shape)
            return {"gamma": float(rate), "cv": float(burstiness) ** -0.5}
        return {"poisson": float(rate)}
    if clients is not None:
        return {"closed": clients}
    completed = _count(run.get("completed"))
    return None if completed is None else {"closed": completed}


def latencies(run: Mapping[str, Any], name: str, source: str) -> dict[str, float]:
    """Milliseconds by statistic (`mean`, `p50`, ...) of `ttft`, `tpot`, `itl` or `e2el`, as far as the run states them.
    Raises InvalidSpec."""
    found: dict[str, float] = {}
    for ours, theirs in _STATISTICS.items():
        value = run.get(f"{theirs}_{name}_ms", run.get(f"{ours}_{name}_ms"))
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_LATENCY_MS:
            found[ours] = float(value)
    detailed = run.get("ttfts")
    if name == "ttft" and isinstance(detailed, list) and detailed:
        try:
            seconds = np.asarray(detailed, dtype=np.float64)
        except (TypeError, ValueError):
            raise InvalidSpec("must be a list of seconds", field=f"{source}.ttfts") from None
        if seconds.ndim != 1 or not np.isfinite(seconds).all() or (seconds < 0).any():
            raise InvalidSpec("must be a list of seconds", field=f"{source}.ttfts")
        for ours, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
            found.setdefault(ours, float(np.quantile(seconds, share)) * 1e3)
    return found


def _needed(run: Mapping[str, Any], name: str, source: str) -> dict[str, float]:
    found = latencies(run, name, source)
    if not found:
        raise InvalidSpec(
            f"no {name} in this run",
            field=source,
            hint=f"expected mean_{name}_ms, as `vllm bench serve --save-result` writes it",
        )
    return found


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_TOKENS * 1000 else None
