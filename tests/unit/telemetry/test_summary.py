"""A summary is of the span alone: what was counted before it began does not show."""

import math

import pytest

from telemetry.summary import Quantiles, summarise
from telemetry.window import Window


def histogram(name: str, *counts: float) -> dict[str, float]:
    bounds = (0.1, 0.2, math.inf)
    return {f"{name}_bucket:{bound}": count for bound, count in zip(bounds, counts, strict=True)}


def test_rates_and_quantiles_come_from_growth() -> None:
    window = Window(8)
    window.append(0.0, {"generation_tokens": 0} | histogram("ttft_s", 0, 0, 0))
    window.append(10.0, {"generation_tokens": 5_000} | histogram("ttft_s", 900, 900, 900))
    window.append(20.0, {"generation_tokens": 5_400, "requests_running": 3} | histogram("ttft_s", 900, 910, 910))
    summary = summarise(window.since(10))
    assert summary.generation_tokens_per_s == 40
    assert summary.requests_running == 3
    assert summary.ttft_s.p50 == pytest.approx(0.15)  # the ten of the span lie between 0.1 and 0.2 s
    assert summary.ttft_s.p95 == pytest.approx(0.195)
    whole = summarise(window.since()).ttft_s
    assert whole.p50 is not None
    assert whole.p50 < 0.1


def test_kv_cache_use_is_a_ratio_whatever_the_engine_says() -> None:
    window = Window(4)
    window.append(1.0, {"kv_cache_use_percent": 25})
    assert summarise(window.since()).kv_cache_use_ratio == 0.25
    window.append(2.0, {"kv_cache_use_ratio": 0.5})
    assert summarise(window.since()).kv_cache_use_ratio == 0.5


def test_what_is_unknown_is_none() -> None:
    window = Window(4)
    window.append(1.0, {"requests_running": 3, "generation_tokens": math.inf} | histogram("ttft_s", 1, 1, 1))
    window.append(2.0, {"generation_tokens": math.inf})
    window.append(3.0, None)
    window.append(4.0, None)
    summary = summarise(window.since())
    assert (summary.requests_running, summary.generation_tokens_per_s) == (None, None)
    assert (summary.ttft_s, summary.inter_token_s) == (Quantiles(None, None), Quantiles(None, None))
