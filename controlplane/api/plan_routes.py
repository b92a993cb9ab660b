"""The planning routes of version 1: questions, jobs with progress, plans beside what is measured."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from controlplane.api.access import Backend, backend_of, cached, caller, require
from controlplane.api.auth import Identity
from controlplane.api.cache import GPU_POOLS, SERVING_DEPLOYMENTS
from controlplane.api.documents import DeploymentOut, problems
from controlplane.api.plan_documents import (
    PLAN_EXAMPLE,
    TRAINING_EXAMPLE,
    PlanIn,
    PlanJobList,
    PlanJobOut,
    PlanObserved,
    TrainingPlanIn,
)
from controlplane.api.plan_jobs import PlanJob, problem_of
from controlplane.api.plan_observed import observe
from controlplane.api.plan_pools import for_training, plannable
from controlplane.api.problem import Problem
from controlplane.api.stream import HEARTBEAT_S, frame
from controlplane.kube import PODS
from controlplane.model.plans import PlannablePool, PlanRequest
from controlplane.model.resource import DNS_LABEL_PATTERN
from controlplane.model.training_plans import TrainingPlanRequest
from telemetry.document import MAX_PODS

# Most questions are answered within this; the others become jobs.
INLINE_S = 2.5

Caller = Annotated[Identity, Depends(caller)]
Back = Annotated[Backend, Depends(backend_of)]
JobId = Annotated[str, Path(pattern="^[0-9a-f]{16}$", description="Id of a plan.")]
Label = Annotated[str, Path(pattern=DNS_LABEL_PATTERN, max_length=253, description="Name.")]

router = APIRouter(prefix="/v1", responses=problems(), tags=["plans"])


def _document(request: Request, job: PlanJob, status: int = 200) -> Response:
    path = f"/v1/plans/{job.id}"
    body = job.out(path).model_dump_json(by_alias=True, exclude_none=True)
    headers = {"Location": path} if status == 202 else {}
    return Response(body, status, headers=headers, media_type="application/json")


@router.post(
    "/plans",
    operation_id="createPlan",
    response_model=PlanJobOut,
    responses={202: {"model": PlanJobOut, "description": "Under way: see Location."}},
)
async def create_plan(
    request: Request,
    identity: Caller,
    backend: Back,
    question: Annotated[PlanIn, Body(examples=[PLAN_EXAMPLE])],
    prefer: Annotated[str | None, Header(max_length=256, description="respond-async: do not wait.")] = None,
) -> Response:
    """Plan a deployment. Answers at once when it can, else 202 with the job's place; nothing is deployed.

    Needs the right to list GPU pools. Without `pools` the cluster's own are meant, with what is free on them now.
    """
    await require(backend, identity, "list", GPU_POOLS, None)
    asked = PlanRequest.model_validate(question.model_dump() | {"pools": _pools(backend, question.pools)})
    return await _begin(request, backend, identity, asked, prefer)


@router.post(
    "/training-plans",
    operation_id="createTrainingPlan",
    response_model=PlanJobOut,
    responses={202: {"model": PlanJobOut, "description": "Under way: see Location."}},
)
async def create_training_plan(
    request: Request,
    identity: Caller,
    backend: Back,
    question: Annotated[TrainingPlanIn, Body(examples=[TRAINING_EXAMPLE])],
    prefer: Annotated[str | None, Header(max_length=256, description="respond-async: do not wait.")] = None,
) -> Response:
    """Plan how to train a model: a job like any other plan's, found under /v1/plans. Nothing is started.

    Needs the right to list GPU pools. Without `pools` the cluster's own are meant, with what is free on them now.
    """
    await require(backend, identity, "list", GPU_POOLS, None)
    pools = _pools(backend, question.pools, whole_nodes=not question.pools)
    asked = TrainingPlanRequest.model_validate(question.model_dump() | {"pools": pools})
    return await _begin(request, backend, identity, asked, prefer)


def _pools(backend: Backend, stated: list[PlannablePool], *, whole_nodes: bool = False) -> list[dict[str, Any]]:
    """The pools of a question, or the cluster's own. Training takes whole nodes of those."""
    pools = stated or plannable(pool.json for pool in backend.cache.pools.store.values())
    if whole_nodes:
        pools = for_training(pools)
    if not pools:
        raise Problem(
            422,
            "Unsupported",
            f"pools: no GPU pool of the cluster {'has a whole node free' if whole_nodes else 'is ready'}.",
            field="pools",
            hint="State what-if pools.",
        )
    return [pool.model_dump() for pool in pools]


async def _begin(
    request: Request, backend: Backend, identity: Identity, asked: PlanRequest | TrainingPlanRequest, prefer: str | None
) -> Response:
    job = backend.plans.start(identity, asked)
    if job.task is not None and "respond-async" not in (prefer or ""):
        await asyncio.wait([job.task], timeout=INLINE_S)
    if job.error is not None:
        raise problem_of(job.error)
    return _document(request, job, 202 if job.open else 200)


@router.get("/plans", operation_id="listPlans", response_model=PlanJobList)
async def list_plans(identity: Caller, backend: Back) -> Response:
    """The caller's plans that this replica of the API holds, newest first, without their answers."""
    jobs = [job.out(f"/v1/plans/{job.id}", answer=False) for job in backend.plans.of(identity)]
    body = PlanJobList(items=jobs).model_dump_json(by_alias=True, exclude_none=True)
    return Response(body, media_type="application/json")


@router.get("/plans/{job_id}", operation_id="getPlan", response_model=PlanJobOut)
async def get_plan(request: Request, identity: Caller, backend: Back, job_id: JobId) -> Response:
    """One plan: how far it is, or its answer."""
    return _document(request, backend.plans.get(identity, job_id))


@router.delete("/plans/{job_id}", operation_id="deletePlan", status_code=204)
async def delete_plan(identity: Caller, backend: Back, job_id: JobId) -> Response:
    """Cancel a plan that is under way; forget one that is done."""
    backend.plans.remove(identity, job_id)
    return Response(status_code=204)


@router.get("/plans/{job_id}/events", operation_id="streamPlan", response_class=StreamingResponse)
async def stream_plan(identity: Caller, backend: Back, job_id: JobId) -> StreamingResponse:
    """Progress as server-sent events: `progress` while it is under way, then `done` or `failed` with the whole job, or
    `cancelled`. A new reader gets the present state first."""
    job = backend.plans.get(identity, job_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(backend, identity, job), media_type="text/event-stream", headers=headers)


async def _events(backend: Backend, identity: Identity, job: PlanJob) -> AsyncIterator[bytes]:
    path = f"/v1/plans/{job.id}"
    async for news in backend.plans.follow(job, HEARTBEAT_S):
        if identity.ended(time.time()):
            yield frame("end", b'{"reason":"TokenEnded"}')
            return
        if job.gone:
            yield frame("cancelled", b"{}")
            return
        if not news:
            yield b": still here\n\n"
            continue
        body = job.out(path, answer=not job.open).model_dump_json(by_alias=True, exclude_none=True).encode()
        yield frame("progress" if job.open else job.state, body)


@router.get(
    "/namespaces/{namespace}/serving-deployments/{name}/plan",
    operation_id="getServingPlan",
    response_model=PlanObserved,
    tags=["serving"],
)
async def observed_plan(
    identity: Caller,
    backend: Back,
    namespace: Label,
    name: Label,
    since_s: Annotated[float, Query(ge=1, le=86_400, description="How far to look back, seconds.")] = 300,
) -> Response:
    """The plan of an auto deployment, its predictions beside what its engines report. Needs the rights of the metrics."""
    await require(backend, identity, "get", SERVING_DEPLOYMENTS, namespace, name)
    await require(backend, identity, "get", PODS, namespace)
    deployment = DeploymentOut.model_validate_json(cached(backend.cache.deployments, namespace, name).json)
    windows = sorted(backend.engine_metrics.of(namespace, name).items())[:MAX_PODS]
    from_s = time.time() - since_s
    engines = {pod: window.since(from_s) for pod, window in windows}
    body = (await asyncio.to_thread(observe, deployment, engines, since_s)).model_dump_json(
        by_alias=True, exclude_none=True
    )
    return Response(body, media_type="application/json")
