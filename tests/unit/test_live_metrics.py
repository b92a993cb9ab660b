"""Counters out of engines' pages: whole, by the engine's own names, and never from what is none."""

from __future__ import annotations

import pytest

from controlplane.live_metrics import EnginePages, counters_of
from controlplane.model.live import EngineCounters, EnginePod

OPENVINO = b"""# TYPE trimtab_engine_requests_total counter
trimtab_engine_requests_total{model_name="m",outcome="completed"} 90
trimtab_engine_requests_total{model_name="m",outcome="cancelled"} 4
trimtab_engine_requests_total{model_name="m",outcome="failed"} 5
trimtab_engine_requests_total{model_name="m",outcome="rejected"} 1
# TYPE trimtab_engine_requests_running gauge
trimtab_engine_requests_running{model_name="m"} 3
# TYPE trimtab_engine_requests_waiting gauge
trimtab_engine_requests_waiting{model_name="m"} 4
# TYPE trimtab_engine_time_to_first_token_seconds histogram
trimtab_engine_time_to_first_token_seconds_bucket{model_name="m",le="+Inf"} 95
trimtab_engine_time_to_first_token_seconds_sum{model_name="m"} 19.5
trimtab_engine_time_to_first_token_seconds_count{model_name="m"} 95
# TYPE trimtab_engine_time_per_output_token_seconds histogram
trimtab_engine_time_per_output_token_seconds_bucket{model_name="m",le="+Inf"} 900
trimtab_engine_time_per_output_token_seconds_sum{model_name="m"} 45
trimtab_engine_time_per_output_token_seconds_count{model_name="m"} 900
"""
VLLM = b"""# TYPE vllm:request_success counter
vllm:request_success_total{engine="0",finished_reason="stop"} 7
vllm:request_success_total{engine="0",finished_reason="length"} 2
vllm:request_success_total{engine="0",finished_reason="abort"} 1
vllm:request_success_total{engine="1",finished_reason="stop"} 10
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_sum{engine="0"} 1.5
vllm:time_to_first_token_seconds_count{engine="0"} 10
vllm:time_to_first_token_seconds_sum{engine="1"} 0.5
vllm:time_to_first_token_seconds_count{engine="1"} 10
# TYPE vllm:request_time_per_output_token_seconds histogram
vllm:request_time_per_output_token_seconds_sum{engine="0"} 0.2
vllm:request_time_per_output_token_seconds_count{engine="0"} 10
# TYPE vllm:inter_token_latency_seconds histogram
vllm:inter_token_latency_seconds_sum{engine="0"} 9
vllm:inter_token_latency_seconds_count{engine="0"} 900
"""


def pod(uid: str, engine: str = "openvino", ip: str = "10.0.0.7") -> EnginePod:
    return EnginePod(uid, f"chat-{uid}", "prod", ip, engine)


def test_a_page_of_the_embedded_engine() -> None:
    assert counters_of("openvino", OPENVINO) == EngineCounters(19.5, 95, 45, 900, 100, 10, 7)


def test_requests_without_a_first_token_are_counted_where_all_is_known() -> None:
    assert EngineCounters(19.5, 90, 45, 900, 100, 10, 7).unanswered == 7
    assert EngineCounters(19.5, 95, 45, 900, 100, 10, 3).unanswered == 0, "some that failed had theirs"
    assert EngineCounters(19.5, 95, 45, 900, 100, 10).unanswered is None


def test_a_page_of_vllm_adds_its_ranks_and_takes_time_per_token_of_requests() -> None:
    assert counters_of("vllm", VLLM) == EngineCounters(2.0, 20, 0.2, 10, 20, 1)


def test_what_an_engine_does_not_tell_is_unknown() -> None:
    assert counters_of("sglang", b"sglang:num_requests_total 5\n") == EngineCounters()
    assert counters_of("vllm", b"") == EngineCounters()


async def test_pods_that_cannot_be_read_are_absent() -> None:
    asked: list[str] = []

    async def fetch(url: str) -> bytes:
        asked.append(url)
        if "10.0.0.8" in url:
            raise OSError("refused")
        if "10.0.0.9" in url:
            raise RuntimeError("a mistake of ours")
        return b"{ no page" if "10.0.0.6" in url else OPENVINO

    pages = EnginePages(fetch)
    pods = [pod("ok"), pod("down", ip="10.0.0.8"), pod("odd", ip="10.0.0.9"), pod("junk", ip="10.0.0.6")]
    pods += [pod("ours", ip="127.0.0.1"), pod("link", ip="169.254.169.254"), pod("new", engine="unheard-of")]
    assert set(await pages.read(pods)) == {"ok"}
    assert "http://10.0.0.7:8000/metrics" in asked
    assert not [url for url in asked if "127." in url or "169.254" in url]
    await pages.close()


@pytest.mark.parametrize("page", [b"\xff\xfe", b"a" * 5_000_000])
async def test_junk_is_no_page(page: bytes) -> None:
    async def fetch(_: str) -> bytes:
        return page

    assert await EnginePages(fetch).read([pod("junk")]) == {}
