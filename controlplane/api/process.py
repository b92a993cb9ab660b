"""`trimtab api`: the composition root of the API process."""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controlplane.api.access import Backend
from controlplane.api.app import create_app, keep
from controlplane.api.auth import Authority
from controlplane.api.cache import ClusterCache
from controlplane.api.engines import scrape_forever
from controlplane.api.plan_jobs import PlanJobs
from controlplane.bus import EventLog
from controlplane.calibration import CalibrationWatch
from controlplane.engine_pages import fetch_page, session
from controlplane.kube import ConfigError, KubeClient, load_access
from controlplane.logs import configure
from controlplane.model.errors import Refused
from controlplane.model.ports import STORE_DOWN
from controlplane.planner_metrics import CountedDesk
from controlplane.planning import PlannerPool, PlannerProcess, planner_options
from controlplane.settings import ApiSettings
from controlplane.store.database import Database, open_database
from controlplane.store.migrate import pauses_s, upgrade
from operators.runtime import Informer
from telemetry.collectors.scrape import EngineMetrics

log = logging.getLogger(__name__)

# Open event streams are cut this long after SIGTERM; their readers resume elsewhere with Last-Event-ID.
_SHUTDOWN_GRACE_S = 5


def _silence_s(informer: Informer[Any, Any]) -> Callable[[], float]:
    def read() -> float:
        silence_s = informer.health.silence_s
        return math.nan if silence_s is None else silence_s  # nothing heard yet is a gap, not 0

    return read


class _ScrapeCounters(Collector):
    """The scraping's own counts, read when asked for."""

    def __init__(self, metrics: EngineMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        kept = self._metrics
        yield CounterMetricFamily("trimtab_api_engine_scrapes", "Engine pages asked for.", kept.scrapes_total)
        yield CounterMetricFamily(
            "trimtab_api_engine_scrape_failures", "Scrapes without a usable page.", kept.failures_total
        )
        yield CounterMetricFamily(
            "trimtab_api_engine_values_dropped",
            "Values of engine pages not kept: too many columns, or no bytes left.",
            kept.dropped_values_total,
        )
        yield GaugeMetricFamily("trimtab_api_engines_scraped", "Engine pods in this replica's share.", len(kept))
        yield GaugeMetricFamily(
            "trimtab_api_engines_over_limit", "Engine pods not scraped: share too large.", kept.targets_over_limit
        )
        yield GaugeMetricFamily("trimtab_api_engine_samples_bytes", "Memory held by engine samples.", kept.nbytes)


def watch_metrics(registry: CollectorRegistry, cache: ClusterCache, metrics: EngineMetrics) -> None:
    """What `/metrics` says about the caches, the event log and the scraping of engines."""
    silence = Gauge(
        "trimtab_api_watch_silence_seconds", "Time since a watch last heard anything.", ["watch"], registry=registry
    )
    for watch, informer in cache.watches.items():
        silence.labels(watch).set_function(_silence_s(informer))
    Gauge("trimtab_api_events_published", "Number of the newest event.", registry=registry).set_function(
        lambda: cache.log.last
    )
    registry.register(_ScrapeCounters(metrics))


async def make_tables(app: FastAPI, database: Database) -> None:
    """Bring the database's tables up to date, however long it is away: what has nothing to do with tuning is served
    meanwhile. A database that cannot be used at all, as a newer version's, fails /healthz."""
    for pause_s in pauses_s():
        try:
            await asyncio.to_thread(upgrade, database)
            return
        except Refused as error:
            if error.reason not in STORE_DOWN:
                log.critical("%s", error)
                app.state.died.append("tables")
                return
            log.warning("%s; again in %g s", error, pause_s)
        await asyncio.sleep(pause_s)


def build(settings: ApiSettings) -> FastAPI:
    """The application; the cluster is contacted when it starts."""
    registry = CollectorRegistry()
    calibration = CalibrationWatch(settings.calibration)
    registry.register(calibration)
    process = settings.process

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Backend]:
        access = await load_access(process.kubeconfig)
        if access.has_client_certificate:
            raise ConfigError(
                "The API forwards its callers' tokens, and a client certificate would outrank them: every caller would "
                "act as its user. Use a kubeconfig with a token, or run inside the cluster."
            )
        async with KubeClient(access, user_agent="trimtab-api") as client, session() as http:
            cache = ClusterCache(client, EventLog(settings.event_log_capacity), process.namespace)
            metrics = EngineMetrics(lambda url: fetch_page(http, url))
            watch_metrics(registry, cache, metrics)
            authority = Authority(client, settings.audience)
            tasks = [keep(app, informer.run(), f"watch of {informer.name}") for informer in cache.informers]
            tasks.append(keep(app, scrape_forever(cache, metrics, process.pod_name or "api"), "scraping"))
            tasks.append(keep(app, calibration.run(), "look at the calibration"))
            options = planner_options(settings)
            pool = PlannerPool([PlannerProcess(options=options) for _ in range(settings.planners)])
            plans = PlanJobs(CountedDesk(pool, registry))
            database = None if settings.database_url is None else open_database(settings.database_url)
            if database is not None:
                tasks.append(asyncio.create_task(make_tables(app, database), name="tables"))
            try:
                yield Backend(client, authority, cache, metrics, plans, database)
            finally:
                await plans.close()
                if database is not None:
                    database.close()
                for task in tasks:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*tasks, return_exceptions=True)

    return create_app(lifespan, registry)


def serve(settings: ApiSettings) -> None:
    """Run until SIGTERM."""
    configure(settings.process.log_level, settings.process.log_format)
    uvicorn.run(
        build(settings),
        host=settings.process.host,
        port=settings.process.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_SHUTDOWN_GRACE_S,
        server_header=False,
    )
