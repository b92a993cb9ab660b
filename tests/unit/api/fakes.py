"""A fake API server for reviews and writes, and a backend whose caches are fed by hand."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from controlplane.api.access import Backend
from controlplane.api.app import create_app
from controlplane.api.auth import Authority
from controlplane.api.cache import CachedDocument, ClusterCache, Document, _Pod
from controlplane.api.plan_jobs import PlanJobs
from controlplane.api.process import watch_metrics
from controlplane.bus import EventLog
from controlplane.kube import SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS, KubeClient, NotFound, Resource
from controlplane.model.errors import TrimtabError
from controlplane.model.plans import PlanRequest, ServingPlan
from controlplane.model.training_plans import TrainingPlan, TrainingPlanRequest
from controlplane.store.database import Database
from controlplane.testing.fake_planner import FakePlanner
from operators.runtime import Informer
from telemetry.collectors.scrape import EngineMetrics
from tuner.training.planner.desk import TrainingDesk

AUDIENCE = "trimtab"


class FakeCluster:
    """Answers reviews from tables; records what was asked and written."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        # user, verb, plural, namespace ("" is all), name ("" is any)
        self.rights: set[tuple[str, str, str, str, str]] = set()
        self.reviews: list[tuple[str, dict[str, Any]]] = []
        self.writes: list[dict[str, Any]] = []
        self.stored: dict[str, dict[str, Any]] = {}
        self.audiences = [AUDIENCE]
        self.accounts = {"default"}

    def allow(self, user: str, plural: str, namespace: str, *verbs: str, name: str = "") -> None:
        self.rights |= {(user, verb, plural, namespace, name) for verb in verbs}

    async def create(self, resource: Resource, body: Mapping[str, Any], *_: Any, **__: Any) -> bytes:
        self.reviews.append((resource.kind, dict(body["spec"])))
        if resource == TOKEN_REVIEWS:
            user = self.users.get(body["spec"]["token"])
            status: dict[str, Any] = {"authenticated": user is not None, "audiences": self.audiences}
            return json.dumps({"status": status | ({"user": {"username": user}} if user else {})}).encode()
        assert resource == SUBJECT_ACCESS_REVIEWS
        spec = body["spec"]
        asked = spec["resourceAttributes"]
        verb, plural, namespace = asked["verb"], asked["resource"], asked["namespace"]
        places = [(where, name) for where in ("", namespace) for name in ("", asked["name"])]
        allowed = any((spec["user"], verb, plural, *place) in self.rights for place in places)
        return json.dumps({"status": {"allowed": allowed}}).encode()

    async def get(self, resource: Resource, name: str, namespace: str | None = None, **options: Any) -> bytes:
        if resource.kind == "ServiceAccount":
            if name not in self.accounts:
                raise NotFound(404, "NotFound", f"serviceaccounts {name!r} not found")
            return b"{}"
        self.writes.append({"method": "GET", "path": resource.path(namespace, name), **options})
        return json.dumps(self.stored[name]).encode()

    async def request(self, method: str, path: str, **options: Any) -> bytes:
        self.writes.append({"method": method, "path": path, **options})
        body = json.loads(json.dumps(options["body"]))
        body["metadata"] |= {"uid": "u-new", "resourceVersion": "77"}
        return json.dumps(body).encode()

    async def delete(self, resource: Resource, name: str, namespace: str | None = None, **options: Any) -> bytes:
        self.writes.append({"method": "DELETE", "path": resource.path(namespace, name), **options})
        return b"{}"

    async def patch(
        self, resource: Resource, body: Any, name: str, namespace: str | None = None, **options: Any
    ) -> bytes:
        self.writes.append({"method": "PATCH", "path": resource.path(namespace, name), "body": body, **options})
        return json.dumps({"kind": "Scale", "spec": body["spec"]}).encode()


class FakePlanning:
    """A `PlanningDesk` that tells its first step, then waits for `go`; training plans are the real planner's."""

    def __init__(self) -> None:
        self.requests: list[PlanRequest] = []
        self.training_requests: list[TrainingPlanRequest] = []
        self.error: TrimtabError | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.cancelled = 0

    async def plan(self, request: PlanRequest, *, progress: Callable[[str, float], None] | None = None) -> ServingPlan:
        self.requests.append(request)
        await self._think(progress)
        return FakePlanner({}).plan(request)

    async def plan_training(
        self, request: TrainingPlanRequest, *, progress: Callable[[str, float], None] | None = None
    ) -> TrainingPlan:
        self.training_requests.append(request)
        await self._think(progress)
        return TrainingDesk().plan(request)

    async def _think(self, progress: Callable[[str, float], None] | None) -> None:
        if progress is not None:
            progress("inventing numbers (fake planner)", 0.25)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        pass


class HandClock:
    """Unix time that moves when a test says so."""

    def __init__(self) -> None:
        self._now_s = 1_800_000_000.0

    def now_s(self) -> float:
        return self._now_s

    def advance(self, by_s: float) -> None:
        self._now_s += by_s


class Setup:
    """An application over a fake cluster; put objects into its caches with `put`."""

    def __init__(
        self,
        log_capacity: int = 50,
        tuning: Database | None = None,
        cluster: FakeCluster | None = None,
        planner: FakePlanning | None = None,
    ) -> None:
        self.cluster = cluster or FakeCluster()
        self.clock = HandClock()
        client = cast(KubeClient, self.cluster)
        self.log = EventLog(log_capacity, epoch="e")
        self.cache = ClusterCache(client, self.log, "trimtab-system")
        self.authority = Authority(client, AUDIENCE, now=self.clock.now_s)

        async def no_engine(_: str) -> bytes:
            raise OSError("no engine here")

        self.metrics = EngineMetrics(no_engine)
        self.planner = planner or FakePlanning()
        self.plans = PlanJobs(self.planner)
        self._backend = Backend(client, self.authority, self.cache, self.metrics, self.plans, tuning)
        for informer in self.cache.informers:
            informer.list_started()
            informer.list_finished("1")

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[Backend]:
        yield self._backend

    def app(self) -> FastAPI:
        registry = CollectorRegistry()
        watch_metrics(registry, self.cache, self.metrics)
        app = create_app(self._lifespan, registry)
        app.state.backend = self._backend
        return app

    def put(self, kind: str, name: str, namespace: str = "", version: str = "5", **rest: Any) -> None:
        informer: Informer[Document, CachedDocument] = self.cache.by_kind[kind]
        body = {
            "metadata": {"name": name, "namespace": namespace, "uid": f"u-{name}", "resourceVersion": version},
            **rest,
        }
        wire = msgspec.json.decode(json.dumps(body).encode(), type=Document)
        informer.upsert(informer._decoder.project(wire), listed=False)

    def put_engine_pod(self, name: str, namespace: str, body: dict[str, Any]) -> None:
        own = {"name": name, "namespace": namespace, "uid": f"u-{name}", "resourceVersion": "5"}
        decoder = self.cache.engine_pods._decoder
        wire = msgspec.json.decode(json.dumps(body | {"metadata": body["metadata"] | own}).encode(), type=_Pod)
        self.cache.engine_pods.upsert(decoder.project(wire), listed=False)

    def remove(self, kind: str, name: str, namespace: str = "") -> None:
        informer = self.cache.by_kind[kind]
        row = informer.store.get(f"{namespace}/{name}" if namespace else name)
        assert row is not None
        informer.deleted(row)
