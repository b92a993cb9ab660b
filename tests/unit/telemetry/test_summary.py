"""A summary is of the span alone: what was counted before it began does not show."""

import math

import pytest

from telemetry.summary import Quantiles, pooled, summarise
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


def _counted(bounds: tuple[float, ...], count: float, total: float) -> Window:
    window = Window(4)
    for row in (0.0, 1.0):
        sample = {f"tpot_s_bucket:{bound}": count * row for bound in bounds}
        window.append(row * 5, sample | {"tpot_s_count": count * row, "tpot_s_sum": total * row})
    return window


def test_engines_are_taken_together_where_their_buckets_agree() -> None:
    one, other = _counted((0.1, math.inf), 10, 1.0), _counted((0.1, math.inf), 30, 5.0)
    both = pooled([one.since(), other.since()], "tpot_s")
    assert (both.observations, both.mean_s) == (40, pytest.approx(0.15))
    assert both.quantiles.p50 == pytest.approx(0.05)
    odd = pooled([one.since(), _counted((0.2, math.inf), 30, 5.0).since()], "tpot_s")
    assert (odd.observations, odd.mean_s, odd.quantiles) == (40, pytest.approx(0.15), Quantiles(None, None))


def test_nothing_observed_has_no_mean() -> None:
    idle = pooled([_counted((0.1, math.inf), 0, 0.0).since()], "tpot_s")
    assert (idle.observations, idle.mean_s) == (0, None)
    assert pooled([], "tpot_s").observations is None
