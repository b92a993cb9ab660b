"""The routes of version 1: pools, serving deployments, events."""

import asyncio
import time
from typing import Annotated

import msgspec
from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from controlplane.api import writes
from controlplane.api.access import Backend, backend_of, cached, caller, readable_namespaces, require
from controlplane.api.auth import Identity
from controlplane.api.cache import CORE_EVENTS, GPU_POOLS, SERVING_DEPLOYMENTS, CachedDocument
from controlplane.api.documents import (
    DEPLOYMENT_EXAMPLE,
    POOL_EXAMPLE,
    DeploymentIn,
    DeploymentList,
    DeploymentOut,
    PlacementExplanation,
    PoolIn,
    PoolList,
    PoolOut,
    ScaleIn,
    problems,
)
from controlplane.api.engines import engine_of
from controlplane.api.explain import explain
from controlplane.api.stream import Streamed, follow
from controlplane.kube import PODS
from controlplane.model.resource import DNS_LABEL_PATTERN
from telemetry.document import MAX_PODS, MAX_ROWS, Asked, encode, snapshot

JSON = "application/json"
Caller = Annotated[Identity, Depends(caller)]
Back = Annotated[Backend, Depends(backend_of)]
Name = Annotated[str, Path(pattern=DNS_LABEL_PATTERN, max_length=253, description="Object name.")]
PodName = Annotated[str, Field(pattern=DNS_LABEL_PATTERN, max_length=253)]
Series = Annotated[str, Field(pattern="^[a-z0-9_]+$", max_length=64)]
Namespace = Annotated[str, Path(pattern=DNS_LABEL_PATTERN, max_length=63, description="Namespace.")]
IfMatch = Annotated[str | None, Header(max_length=128, description="resourceVersion the change is based on.")]

router = APIRouter(prefix="/v1", responses=problems())


def _documents(rows: list[CachedDocument], version: str) -> Response:
    body = (
        b'{"resourceVersion":' + msgspec.json.encode(version) + b',"items":[' + b",".join(r.json for r in rows) + b"]}"
    )
    return Response(body, media_type=JSON)


def _document(row: CachedDocument) -> Response:
    return Response(row.json, media_type=JSON, headers={"ETag": f'"{row.resource_version}"'})


@router.get("/pools", operation_id="listPools", response_model=PoolList, tags=["pools"])
async def list_pools(identity: Caller, backend: Back) -> Response:
    """All GPU pools."""
    await require(backend, identity, "list", GPU_POOLS, None)
    informer = backend.cache.pools
    rows = sorted(informer.store.values(), key=lambda row: row.name)
    return _documents(rows, informer.resource_version)


@router.post("/pools", operation_id="createPool", status_code=201, response_model=PoolOut, tags=["pools"])
async def create_pool(
    identity: Caller, backend: Back, pool: Annotated[PoolIn, Body(examples=[POOL_EXAMPLE])]
) -> Response:
    """Create a pool with the caller's own rights."""
    spec = pool.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    stored = await writes.create(backend.client, identity, GPU_POOLS, None, pool.metadata, spec)
    return Response(stored, 201, media_type=JSON)


@router.get("/pools/{name}", operation_id="getPool", response_model=PoolOut, tags=["pools"])
async def get_pool(identity: Caller, backend: Back, name: Name) -> Response:
    """One pool."""
    await require(backend, identity, "get", GPU_POOLS, None, name)
    return _document(cached(backend.cache.pools, "", name))


@router.put(
    "/pools/{name}",
    operation_id="replacePool",
    response_model=PoolOut,
    responses=problems(428),
    tags=["pools"],
)
async def replace_pool(
    identity: Caller,
    backend: Back,
    name: Name,
    pool: Annotated[PoolIn, Body(examples=[POOL_EXAMPLE])],
    if_match: IfMatch = None,
) -> Response:
    """Replace spec, labels and annotations on the version the caller read."""
    spec = pool.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    stored = await writes.replace(backend.client, identity, GPU_POOLS, None, name, pool.metadata, spec, if_match)
    return Response(stored, media_type=JSON)


@router.delete("/pools/{name}", operation_id="deletePool", status_code=202, response_class=Response, tags=["pools"])
async def delete_pool(identity: Caller, backend: Back, name: Name, if_match: IfMatch = None) -> Response:
    """Delete a pool; it goes once no replica is placed in it."""
    await writes.delete(backend.client, identity, GPU_POOLS, None, name, if_match)
    return Response(status_code=202)


@router.get(
    "/serving-deployments", operation_id="listAllServingDeployments", response_model=DeploymentList, tags=["serving"]
)
async def list_all_deployments(identity: Caller, backend: Back) -> Response:
    """Serving deployments of every namespace the caller may list."""
    informer = backend.cache.deployments
    rows = informer.store.values()
    allowed = await readable_namespaces(backend, identity, SERVING_DEPLOYMENTS, sorted({row.namespace for row in rows}))
    shown = [row for row in rows if allowed is None or row.namespace in allowed]
    shown.sort(key=lambda row: (row.namespace, row.name))
    return _documents(shown, informer.resource_version)


_ONE_NAMESPACE = "/namespaces/{namespace}/serving-deployments"
_ONE = _ONE_NAMESPACE + "/{name}"


@router.get(_ONE_NAMESPACE, operation_id="listServingDeployments", response_model=DeploymentList, tags=["serving"])
async def list_deployments(identity: Caller, backend: Back, namespace: Namespace) -> Response:
    """Serving deployments of one namespace."""
    await require(backend, identity, "list", SERVING_DEPLOYMENTS, namespace)
    informer = backend.cache.deployments
    rows = sorted((r for r in informer.store.values() if r.namespace == namespace), key=lambda row: row.name)
    return _documents(rows, informer.resource_version)


@router.post(
    _ONE_NAMESPACE,
    operation_id="createServingDeployment",
    status_code=201,
    response_model=DeploymentOut,
    tags=["serving"],
)
async def create_deployment(
    identity: Caller,
    backend: Back,
    namespace: Namespace,
    deployment: Annotated[DeploymentIn, Body(examples=[DEPLOYMENT_EXAMPLE])],
) -> Response:
    """Create a serving deployment with the caller's own rights."""
    spec = deployment.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    stored = await writes.create(backend.client, identity, SERVING_DEPLOYMENTS, namespace, deployment.metadata, spec)
    return Response(stored, 201, media_type=JSON)


@router.get(_ONE, operation_id="getServingDeployment", response_model=DeploymentOut, tags=["serving"])
async def get_deployment(identity: Caller, backend: Back, namespace: Namespace, name: Name) -> Response:
    """One serving deployment."""
    await require(backend, identity, "get", SERVING_DEPLOYMENTS, namespace, name)
    return _document(cached(backend.cache.deployments, namespace, name))


@router.put(
    _ONE,
    operation_id="replaceServingDeployment",
    response_model=DeploymentOut,
    responses=problems(428),
    tags=["serving"],
)
async def replace_deployment(
    identity: Caller,
    backend: Back,
    namespace: Namespace,
    name: Name,
    deployment: Annotated[DeploymentIn, Body(examples=[DEPLOYMENT_EXAMPLE])],
    if_match: IfMatch = None,
) -> Response:
    """Replace spec, labels and annotations on the version the caller read."""
    spec = deployment.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    stored = await writes.replace(
        backend.client, identity, SERVING_DEPLOYMENTS, namespace, name, deployment.metadata, spec, if_match
    )
    return Response(stored, media_type=JSON)


@router.delete(_ONE, operation_id="deleteServingDeployment", status_code=202, response_class=Response, tags=["serving"])
async def delete_deployment(
    identity: Caller, backend: Back, namespace: Namespace, name: Name, if_match: IfMatch = None
) -> Response:
    """Delete a serving deployment; its pods finish what they have in flight."""
    await writes.delete(backend.client, identity, SERVING_DEPLOYMENTS, namespace, name, if_match)
    return Response(status_code=202)


@router.put(_ONE + "/scale", operation_id="scaleServingDeployment", tags=["serving"])
async def scale_deployment(
    identity: Caller, backend: Back, namespace: Namespace, name: Name, wanted: ScaleIn, if_match: IfMatch = None
) -> Response:
    """Set the number of replicas."""
    stored = await writes.scale(
        backend.client, identity, SERVING_DEPLOYMENTS, namespace, name, wanted.replicas, if_match
    )
    return Response(stored, media_type=JSON)


@router.get(_ONE + "/placement", operation_id="explainPlacement", response_model=PlacementExplanation, tags=["serving"])
async def explain_placement(identity: Caller, backend: Back, namespace: Namespace, name: Name) -> PlacementExplanation:
    """Why the replicas are where they are, and why others wait."""
    await require(backend, identity, "get", SERVING_DEPLOYMENTS, namespace, name)
    row = cached(backend.cache.deployments, namespace, name)
    sees_pools = await backend.authority.allows(identity, "list", GPU_POOLS, None)
    return explain(row.json, [pool.json for pool in backend.cache.pools.store.values()] if sees_pools else [])


@router.get(_ONE + "/metrics", operation_id="getEngineMetrics", tags=["serving"])
async def engine_metrics(
    identity: Caller,
    backend: Back,
    namespace: Namespace,
    name: Name,
    since_s: Annotated[float, Query(ge=1, le=86_400, description="How far to look back, seconds.")] = 300,
    columns: Annotated[list[Series], Query(max_length=32, description="Series to show; none: all.")] = [],  # noqa: B006
    pod: Annotated[list[PodName], Query(max_length=MAX_PODS, description="Pods to show; none: all.")] = [],  # noqa: B006
    max_rows: Annotated[int, Query(ge=1, le=MAX_ROWS, description="Newest rows of each pod to show.")] = MAX_ROWS,
) -> Response:
    """Engine metrics of each answering pod, in columns; null marks a gap.

    Each API replica scrapes its share of the pods, so a replica answers for the pods it holds and names the others.
    `limits` in the answer says how many rows and pods it could hold, and what was left out. `summary` has, for each pod,
    requests and KV cache use now, tokens per second, and TTFT and inter-token quantiles over the span.
    """
    await require(backend, identity, "get", SERVING_DEPLOYMENTS, namespace, name)
    await require(backend, identity, "get", PODS, namespace)
    cached(backend.cache.deployments, namespace, name)
    pods = [
        row.name
        for row in backend.cache.engine_pods.store.values()
        if row.namespace == namespace and row.deployment == name and engine_of(backend.cache, row)
    ]
    asked = Asked(since_s, frozenset(pod), frozenset(columns), max_rows)
    taken = await snapshot(backend.engine_metrics.of(namespace, name), pods, asked, time.time())
    return Response(await asyncio.to_thread(encode, taken), media_type=JSON)


@router.get("/events", operation_id="streamEvents", tags=["events"], response_class=StreamingResponse)
async def stream_events(
    request: Request,
    identity: Caller,
    backend: Back,
    last_event_id: Annotated[str | None, Header(max_length=64, description="Resume after this event.")] = None,
) -> StreamingResponse:
    """Every change the caller may see, as server-sent events.

    Starts with the full state (`state` events, then `synced`). `added`, `modified`, `deleted` carry an object, `event`
    a Kubernetes event about one. Resumed with Last-Event-ID it continues exactly there, or says `gap` and sends the
    full state again.
    """
    cache = backend.cache
    kinds = {
        "GPUPool": Streamed(GPU_POOLS, lambda: cache.state("GPUPool")),
        "ServingDeployment": Streamed(SERVING_DEPLOYMENTS, lambda: cache.state("ServingDeployment")),
        "Event": Streamed(CORE_EVENTS, cache.no_state),
    }
    body = follow(cache.log, backend.authority, identity, kinds, last_event_id)
    return StreamingResponse(
        body, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
