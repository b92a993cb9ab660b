"""Counters of running engines for the operator: the port `LiveMetrics` filled in from their metrics pages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from controlplane.catalog import load
from controlplane.engine_pages import fetch_page, page_url, series_names, session
from controlplane.model.live import EngineCounters, EnginePod
from telemetry.collectors.engine import BadMetricsPage, parse

log = logging.getLogger(__name__)

# Label and values by which an engine's request counter tells requests that did not end well. Clients who give up count
# among them: who waits too long does. trimtab-engine: engines/openvino/trimtab_engine/metrics.py; vLLM 0.24.0:
# vllm/v1/engine/__init__.py (FinishReason) and vllm/v1/metrics/loggers.py.
_FAILED: Mapping[str, tuple[str, frozenset[str]]] = {
    "openvino": ("outcome", frozenset({"cancelled", "failed", "rejected"})),
    "vllm": ("finished_reason", frozenset({"abort", "error"})),
}
_AT_ONCE = 16

Fetch = Callable[[str], Awaitable[bytes]]


class EnginePages:
    """Reads pages as they are asked for. The session is opened by the first reading and closed by `close`."""

    def __init__(self, fetch: Fetch | None = None) -> None:
        self._given = fetch
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def read(self, pods: Sequence[EnginePod]) -> Mapping[str, EngineCounters]:
        """By pod uid; what cannot be read is absent."""
        found = await asyncio.gather(*(self._one(pod) for pod in pods))
        return {pod.uid: counters for pod, counters in zip(pods, found, strict=True) if counters is not None}

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _one(self, pod: EnginePod) -> EngineCounters | None:
        url = page_url(pod.engine, pod.ip)
        if url is None:
            return None
        async with self._slots:
            try:
                return await asyncio.to_thread(counters_of, pod.engine, await self._fetch(url))
            except (OSError, TimeoutError, BadMetricsPage) as error:
                log.info("no metrics from %s/%s: %r", pod.namespace, pod.name, error)
            except Exception:  # whatever one engine sends, the others are read
                log.exception("no metrics from %s/%s", pod.namespace, pod.name)
        return None

    async def _fetch(self, url: str) -> bytes:
        if self._given is not None:
            return await self._given(url)
        if self._session is None:
            self._session = session()
        return await fetch_page(self._session, url)


def counters_of(engine: str, page: bytes) -> EngineCounters:
    """What a page says. Raises BadMetricsPage."""
    sample = parse(page, series_names(engine))
    tpot = "tpot_s" if "tpot_s_count" in sample else "inter_token_s"
    ended, failed = _ends(engine, page)
    return EngineCounters(
        sample.get("ttft_s_sum"),
        sample.get("ttft_s_count"),
        sample.get(f"{tpot}_sum"),
        sample.get(f"{tpot}_count"),
        ended,
        failed,
        _in_flight(sample),
    )


def _in_flight(sample: Mapping[str, float]) -> float | None:
    running, waiting = sample.get("requests_running"), sample.get("requests_waiting")
    return None if running is None or waiting is None else running + waiting


def _ends(engine: str, page: bytes) -> tuple[float | None, float | None]:
    """Requests that ended, and of these the ones that failed; None where the engine does not tell them apart."""
    told, series = _FAILED.get(engine), load().engine(engine).metrics.requests
    if told is None or series is None:
        return None, None
    label, bad = told
    lines = [line for line in page.decode().splitlines() if line.startswith(series)]
    ended: float | None = None
    failed = 0.0
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for item in family.samples:
            if item.name == series and label in item.labels:
                ended = (ended or 0.0) + item.value
                failed += item.value if item.labels[label] in bad else 0.0
    return ended, None if ended is None else failed
