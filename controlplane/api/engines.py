"""Scrapes this replica's share of the engine pods into columnar windows."""

import asyncio
import time
from collections.abc import Iterator

from controlplane.api.cache import ClusterCache, WatchedPod
from controlplane.engine_pages import page_url, series_names
from telemetry.collectors.scrape import EngineMetrics, Target
from telemetry.shard import owner

SCRAPE_INTERVAL_S = 5.0


def engine_of(cache: ClusterCache, pod: WatchedPod) -> bool:
    """Whether the pod belongs to a deployment there is. Labels alone prove nothing: anybody who may make pods sets them."""
    deployment = cache.deployments.store.get(f"{pod.namespace}/{pod.deployment}") if pod.deployment else None
    return deployment is not None and pod.owner_uid == deployment.uid


def targets(cache: ClusterCache, me: str, members: frozenset[str]) -> Iterator[Target]:
    """The pods this replica scrapes. A deployment's pods all go to one replica, so that it can answer for them."""
    for pod in cache.engine_pods.store.values():
        key = f"{pod.namespace}/{pod.deployment}"
        # On its node's network, a GET could reach the node's own services.
        if not engine_of(cache, pod) or pod.on_host or owner(key, members or frozenset({me})) != me:
            continue
        url = page_url(pod.engine, pod.ip)
        if url is not None:
            yield Target(pod.namespace, pod.deployment, pod.name, url, series_names(pod.engine))


async def scrape_forever(cache: ClusterCache, metrics: EngineMetrics, me: str) -> None:
    """Until cancelled: agree on shares with the replicas that are ready now, take one sample, wait."""
    while True:
        started_s = time.monotonic()
        members = frozenset(pod.name for pod in cache.api_pods.store.values() if pod.ready)
        metrics.retarget(targets(cache, me, members | {me}))
        await metrics.scrape()
        await asyncio.sleep(max(0.5, SCRAPE_INTERVAL_S - (time.monotonic() - started_s)))
