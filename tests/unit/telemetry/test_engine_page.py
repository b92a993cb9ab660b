"""Engine metrics pages become engine-neutral samples."""

import pytest

from telemetry.collectors.engine import MAX_PAGE_BYTES, BadMetricsPage, buckets, parse
from telemetry.histogram import quantile

NAMES = {
    "requests_running": "vllm:num_requests_running",
    "kv_cache_use_ratio": "vllm:kv_cache_usage_perc",
    "generation_tokens": "vllm:generation_tokens",
    "ttft_s": "vllm:time_to_first_token_seconds",
}
PAGE = b"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 3
vllm:num_requests_running{engine="1"} 4
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} 0.7
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0"} 1200
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="0.1"} 2
vllm:time_to_first_token_seconds_bucket{le="0.2"} 6
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 8
vllm:time_to_first_token_seconds_sum 1.5
vllm:time_to_first_token_seconds_count 8
# TYPE other gauge
other 1
"""


def test_ranks_are_added_ratios_averaged_histograms_spread() -> None:
    sample = parse(PAGE, NAMES)
    assert sample["requests_running"] == 7
    assert sample["kv_cache_use_ratio"] == pytest.approx(0.6)
    assert sample["generation_tokens"] == 1200
    assert sample["ttft_s_sum"] == 1.5
    assert sample["ttft_s_count"] == 8
    assert {bound: sample[column] for bound, column in buckets(sample, "ttft_s").items()} == {
        0.1: 2,
        0.2: 6,
        float("inf"): 8,
    }
    assert "other" not in sample


def test_bad_pages_are_refused() -> None:
    with pytest.raises(BadMetricsPage, match="allowed"):
        parse(b"x" * (MAX_PAGE_BYTES + 1), NAMES)
    with pytest.raises(BadMetricsPage, match="not a Prometheus"):
        parse(b"<html>no</html>", NAMES)
    with pytest.raises(BadMetricsPage, match="not a Prometheus"):
        parse(b'x{a="b",\t="0.5"} 1\n', NAMES)  # the parser runs off the end of a label


@pytest.mark.parametrize(
    ("q", "want"),
    [(0.5, 0.15), (0.25, 0.1), (0.99, 0.2)],
)
def test_quantiles_are_linear_inside_a_bucket(q: float, want: float) -> None:
    assert quantile({0.1: 2, 0.2: 6, float("inf"): 8}, q) == pytest.approx(want)


def test_quantile_of_nothing_is_unknown() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({0.1: 0, float("inf"): 0}, 0.5) is None
    assert quantile({float("inf"): 3}, 0.5) is None
    with pytest.raises(ValueError, match="allowed"):
        quantile({0.1: 1}, 1.0)
