"""The application: routes, problem documents, limits, health, metrics."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api import plan_routes, problem, tuning_apply_routes, tuning_routes
from controlplane.api.access import Backend
from controlplane.api.problem import Problem
from controlplane.api.routes import router

log = logging.getLogger(__name__)

# Kubernetes refuses objects over 1.5 MiB; more than that is never a resource.
MAX_BODY_BYTES = 1536 * 1024

_DESCRIPTION = """Plans, deploys and watches LLM serving on mixed GPU pools.

Reads come from caches and show what the caller may see in the cluster. Writes are made with the caller's own bearer
token, so the cluster's RBAC, admission and audit judge them as if they came from kubectl. Errors are RFC 9457 problem
documents."""


class BodyLimit:
    """Refuses bodies over the limit, declared or streamed, before anything parses them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        seen = int(declared) if declared.isdigit() else 0
        if seen > MAX_BODY_BYTES:
            refusal = Problem(413, "ContentTooLarge", "The body is too large.", limit=f"{MAX_BODY_BYTES} bytes")
            await refusal.response(Request(scope))(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, f"The body is too large; allowed: {MAX_BODY_BYTES} bytes.")
            return message

        await self._app(scope, counted, send)


def keep(app: FastAPI, run: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task that lives as long as the process. Its early end fails /healthz: a watch that died would leave a cache that
    is old for ever, and a restart is the way out."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.critical("%s died", name, exc_info=task.exception())
            app.state.died.append(name)

    task = asyncio.create_task(run, name=name)
    task.add_done_callback(ended)
    return task


def create_app(
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Backend]], registry: CollectorRegistry
) -> FastAPI:
    """The application around a backend that `lifespan` opens and closes."""

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app) as backend:
            app.state.backend = backend
            yield

    app = FastAPI(
        title="Trimtab",
        version=version("trimtab"),
        description=_DESCRIPTION,
        lifespan=running,
        docs_url=None,  # the bundled page loads scripts from a content delivery network
        redoc_url=None,
    )
    requests_total = Counter(
        "trimtab_api_requests", "Requests answered.", ["method", "route", "code"], registry=registry
    )
    seconds = Histogram("trimtab_api_request_seconds", "Time to the head of the response.", registry=registry)
    problem.install(app)
    app.include_router(router)
    app.include_router(plan_routes.router)
    app.include_router(tuning_apply_routes.router)  # before the route of all other actions
    app.include_router(tuning_routes.router)
    app.add_middleware(BodyLimit)

    @app.middleware("http")
    async def measure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        def count(code: int) -> None:
            route = request.scope.get("route")
            requests_total.labels(request.method, getattr(route, "path", "unmatched"), code).inc()

        try:
            with seconds.time():
                response = await call_next(request)
        except Exception:  # the server outside answers 500
            count(500)
            raise
        count(response.status_code)
        return response

    app.state.died = []

    @app.get("/healthz", include_in_schema=False)
    async def healthz(request: Request) -> Response:
        died: list[str] = request.app.state.died
        if died:
            return Response(f"died: {', '.join(died)}", 503, media_type="text/plain")
        return Response("ok", media_type="text/plain")

    @app.get("/readyz", include_in_schema=False)
    async def readyz(request: Request) -> Response:
        backend: Backend = request.app.state.backend
        waiting = [informer.resource.plural for informer in backend.cache.informers if not informer.synced]
        if waiting:
            return Response(f"not yet listed: {', '.join(waiting)}", 503, media_type="text/plain")
        return Response("ok", media_type="text/plain")

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app
