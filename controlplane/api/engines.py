"""Scrapes this replica's share of the engine pods into columnar windows."""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache

import aiohttp

from controlplane.api.cache import ClusterCache
from controlplane.catalog import load
from controlplane.catalog.engines import Engine
from controlplane.model.errors import UnknownName
from telemetry.collectors.engine import MAX_PAGE_BYTES
from telemetry.collectors.scrape import EngineMetrics, Target
from telemetry.shard import owner

log = logging.getLogger(__name__)

SCRAPE_INTERVAL_S = 5.0
_SCRAPE_TIMEOUT_S = 3.0


@lru_cache
def series_names(engine_id: str) -> Mapping[str, str]:
    """Our series name -> the engine's, for what the engine exports. Raises UnknownName."""
    return _series_names(load().engine(engine_id))


def _series_names(engine: Engine) -> Mapping[str, str]:
    theirs = engine.metrics
    kv_unit = "percent" if theirs.kv_usage_unit == "percent" else "ratio"
    ours = {
        "requests_running": theirs.running,
        "requests_waiting": theirs.waiting,
        f"kv_cache_use_{kv_unit}": theirs.kv_usage,
        "ttft_s": theirs.ttft,
        "inter_token_s": theirs.inter_token,
        "tpot_s": theirs.tpot,
        "e2e_s": theirs.e2e,
        "queue_s": theirs.queue_time,
        "prompt_tokens": theirs.prompt_tokens,
        "generation_tokens": theirs.generation_tokens,
        "preemptions": theirs.preemptions,
    }
    return {name: series for name, series in ours.items() if series}


def targets(cache: ClusterCache, me: str, members: frozenset[str]) -> Iterator[Target]:
    """The pods this replica scrapes. A deployment's pods all go to one replica, so that it can answer for them."""
    for pod in cache.engine_pods.store.values():
        key = f"{pod.namespace}/{pod.deployment}"
        if not pod.ip or not pod.deployment or owner(key, members or frozenset({me})) != me:
            continue
        try:
            engine = load().engine(pod.engine)
        except UnknownName:
            continue
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        url = f"http://{host}:{engine.port}{engine.metrics.path}"
        yield Target(pod.namespace, pod.deployment, pod.name, url, series_names(pod.engine))


async def fetch_page(session: aiohttp.ClientSession, url: str) -> bytes:
    """GET without redirects (an engine must not send us elsewhere), at most MAX_PAGE_BYTES + 1 bytes."""
    try:
        async with session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise OSError(f"{url} answered {response.status}")
            page = bytearray()
            # One read gives what has arrived so far, not the whole page.
            async for piece in response.content.iter_any():
                page += piece
                if len(page) > MAX_PAGE_BYTES:
                    break
            return bytes(page[: MAX_PAGE_BYTES + 1])
    except aiohttp.ClientError as error:
        raise OSError(str(error)) from error


async def scrape_forever(cache: ClusterCache, metrics: EngineMetrics, me: str) -> None:
    """Until cancelled: agree on shares with the replicas that are ready now, take one sample, wait."""
    while True:
        started_s = time.time()
        members = frozenset(pod.name for pod in cache.api_pods.store.values() if pod.ready)
        metrics.retarget(targets(cache, me, members | {me}))
        try:
            await metrics.scrape(started_s)
        except ValueError as error:
            # The wall clock stepped back: this round's rows would falsify rates.
            log.warning("engine metrics: sample left out: %s", error)
        await asyncio.sleep(max(0.5, SCRAPE_INTERVAL_S - (time.time() - started_s)))


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SCRAPE_TIMEOUT_S))
