"""Scrapes this replica's share of the engine pods into columnar windows."""

import asyncio
import ipaddress
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache

import aiohttp

from controlplane.api.cache import ClusterCache, WatchedPod
from controlplane.catalog import load
from controlplane.catalog.engines import Engine
from controlplane.model.errors import UnknownName
from telemetry.collectors.engine import MAX_PAGE_BYTES
from telemetry.collectors.scrape import EngineMetrics, Target
from telemetry.shard import owner

SCRAPE_INTERVAL_S = 5.0
_SCRAPE_TIMEOUT_S = 3.0


def engine_of(cache: ClusterCache, pod: WatchedPod) -> bool:
    """Whether the pod belongs to a deployment there is. Labels alone prove nothing: anybody who may make pods sets them."""
    deployment = cache.deployments.store.get(f"{pod.namespace}/{pod.deployment}") if pod.deployment else None
    return deployment is not None and pod.owner_uid == deployment.uid


def _reachable(pod: WatchedPod) -> bool:
    """Whether the pod has an address of its own: on its node's network, a GET could reach the node's own services."""
    if pod.on_host:
        return False
    try:
        address = ipaddress.ip_address(pod.ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast)


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
        if not engine_of(cache, pod) or not _reachable(pod) or owner(key, members or frozenset({me})) != me:
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
        started_s = time.monotonic()
        members = frozenset(pod.name for pod in cache.api_pods.store.values() if pod.ready)
        metrics.retarget(targets(cache, me, members | {me}))
        await metrics.scrape()
        await asyncio.sleep(max(0.5, SCRAPE_INTERVAL_S - (time.monotonic() - started_s)))


def session() -> aiohttp.ClientSession:
    """Sends nothing but the GET, keeps no cookies, and unpacks nothing: a small page must not become a huge one."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_SCRAPE_TIMEOUT_S),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
