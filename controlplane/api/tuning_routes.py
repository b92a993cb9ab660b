"""The tuning routes of version 1: jobs made, watched, steered, and what they found. Everything stands in the store."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from controlplane.api.access import Backend, backend_of, caller, require
from controlplane.api.auth import Identity
from controlplane.api.documents import problems
from controlplane.api.problem import Problem
from controlplane.api.tuning_access import TUNING_JOBS, database_of, generation_of, job_for, stored
from controlplane.api.tuning_documents import (
    EXAMPLE,
    CloneIn,
    ExtendIn,
    ImportanceOut,
    ParetoOut,
    TuningJobIn,
    cursor_of,
    position_of,
)
from controlplane.api.tuning_rights import require_new_job, require_trials, target_of
from controlplane.api.tuning_stream import job_events
from controlplane.model.resource import DNS_LABEL_PATTERN, Part
from controlplane.model.tuning import JobState, TrialState
from controlplane.model.tuning_check import SpaceCheck
from controlplane.model.tuning_decision import TuningDecision
from controlplane.model.tuning_pages import TrialList, TrialOut, TuningJobList
from controlplane.model.tuning_records import TuningJobRecord
from controlplane.store.jobs import IdempotencyKey, Jobs
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.tuning_check import space_check
from controlplane.tuning_deployments import completed_on_cluster
from controlplane.tuning_files import bundle_of, decision_of, report_of
from controlplane.tuning_history import with_earlier
from controlplane.tuning_targets import in_namespace
from tuner.decision import pareto

_ID_MAX = 63
_ALL_MAX = 10**9
_KEY_MAX = 255

Caller = Annotated[Identity, Depends(caller)]
Back = Annotated[Backend, Depends(backend_of)]
JobId = Annotated[str, Path(pattern="^[0-9a-z-]+$", max_length=_ID_MAX, description="Id of a tuning job.")]
IfMatch = Annotated[str | None, Header(max_length=64, description="ETag that was read; refused if changed since.")]
Namespace = Annotated[str | None, Query(pattern=DNS_LABEL_PATTERN, max_length=63)]
Limit = Annotated[int, Query(ge=1, le=500)]

router = APIRouter(prefix="/v1/tuning-jobs", responses=problems(412), tags=["tuning"])


def _document(body: Part, status: int = 200, **headers: str) -> Response:
    return Response(body.model_dump_json(by_alias=True), status, headers=headers, media_type="application/json")


def _job(record: TuningJobRecord, status: int = 200) -> Response:
    headers = {"ETag": f'W/"{record.generation}"'}
    if status == 201:
        headers["Location"] = f"/v1/tuning-jobs/{record.id}"
    return _document(record, status, **headers)


@router.post("", operation_id="createTuningJob", response_model=TuningJobRecord, status_code=201)
async def create_tuning_job(
    identity: Caller,
    backend: Back,
    job: Annotated[TuningJobIn, Body(examples=[EXAMPLE])],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255, description="Repeat safely.")] = None,
) -> Response:
    """Make a tuning job. A repeated Idempotency-Key gets what the first call made.

    Trials are pods that run for the caller: it takes the right to create TuningJobs and pods in the namespace, to get
    the ServiceAccount of the pods and, where a deployment is tuned, to get that.
    """
    asked = in_namespace(job.spec, job.namespace)
    await require_new_job(backend, identity, job.namespace, asked)
    database = database_of(backend)
    deployment = target_of(backend, job.namespace, asked)
    spec = await stored(lambda: with_earlier(database, job.namespace, completed_on_cluster(asked, deployment)))
    key = None
    if idempotency_key is not None:
        body = json.dumps(job.model_dump(mode="json"), sort_keys=True)
        key = IdempotencyKey(own_key(identity.user, idempotency_key), hashlib.sha256(body.encode()).hexdigest())
    record, made = await stored(
        lambda: Jobs(database).create(
            secrets.token_hex(8), tenant=job.namespace, name=job.name, spec=spec, now=database.now(), idempotency=key
        )
    )
    return _job(record, 201 if made else 200)


@router.post("/check", operation_id="checkTuningJob", response_model=SpaceCheck)
async def check_tuning_job(
    identity: Caller, backend: Back, job: Annotated[TuningJobIn, Body(examples=[EXAMPLE])]
) -> Response:
    """What rules and known limits take away from a job's space. Nothing is made; it takes the rights that making it
    takes."""
    asked = in_namespace(job.spec, job.namespace)
    await require_new_job(backend, identity, job.namespace, asked)
    deployment = target_of(backend, job.namespace, asked)
    return _document(await stored(lambda: space_check(asked, lambda spec: completed_on_cluster(spec, deployment))))


@router.get("", operation_id="listTuningJobs", response_model=TuningJobList)
async def list_tuning_jobs(
    identity: Caller,
    backend: Back,
    namespace: Namespace = None,
    name: Annotated[
        str | None, Query(pattern=DNS_LABEL_PATTERN, max_length=63, description="Only of this name.")
    ] = None,
    state: Annotated[list[JobState] | None, Query(max_length=8)] = None,
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(max_length=128)] = None,
) -> Response:
    """Jobs of a namespace, newest first; without one those of all, for who may list everywhere."""
    await require(backend, identity, "list", TUNING_JOBS, namespace)
    database = database_of(backend)
    after = position_of(cursor)
    tenants = None if namespace is None else [namespace]
    jobs = Jobs(database)
    items = await stored(lambda: jobs.list(tenants=tenants, name=name, states=state or (), limit=limit, after=after))
    return _document(TuningJobList(items=items, next=cursor_of(items[-1]) if len(items) == limit else None))


@router.get("/{job_id}", operation_id="getTuningJob", response_model=TuningJobRecord)
async def get_tuning_job(identity: Caller, backend: Back, job_id: JobId) -> Response:
    """One job: what it asks, how far it is, what it decided. The ETag changes with what users change."""
    record = await job_for(backend, identity, job_id, "get")
    studies = Studies(database_of(backend))
    return _job(await stored(lambda: studies.with_progress(record)))


@router.delete("/{job_id}", operation_id="deleteTuningJob", status_code=204)
async def delete_tuning_job(identity: Caller, backend: Back, job_id: JobId, if_match: IfMatch = None) -> Response:
    """Delete a job with everything it measured; one under way is cancelled."""
    await job_for(backend, identity, job_id, "delete")
    generation = generation_of(if_match)
    database = database_of(backend)
    steering = Steering(database)
    await stored(lambda: steering.delete(job_id, now=database.now(), generation=generation))
    return Response(status_code=204)


@router.post("/{job_id}/clones", operation_id="cloneTuningJob", response_model=TuningJobRecord, status_code=201)
async def clone_tuning_job(identity: Caller, backend: Back, job_id: JobId, copy: CloneIn) -> Response:
    """A new job that asks for the same, from its beginning."""
    record = await job_for(backend, identity, job_id, "get")
    await require_new_job(backend, identity, record.tenant, record.spec)
    database = database_of(backend)
    jobs = Jobs(database)
    return _job(await stored(lambda: jobs.clone(job_id, secrets.token_hex(8), name=copy.name, now=database.now())), 201)


@router.post("/{job_id}/{action}", operation_id="steerTuningJob", response_model=TuningJobRecord)
async def steer_tuning_job(
    identity: Caller,
    backend: Back,
    job_id: JobId,
    action: Literal["pause", "resume", "cancel"],
    if_match: IfMatch = None,
) -> Response:
    """Pause (trials under way end), resume, or cancel (they are stopped). Saying it twice changes nothing. Resuming needs
    the right to start trials."""
    record = await job_for(backend, identity, job_id, "update")
    if action == "resume":
        await require_trials(backend, identity, record.tenant, record.spec)
    generation = generation_of(if_match)
    database = database_of(backend)
    steering = Steering(database)
    acts: dict[str, Callable[..., TuningJobRecord]] = {
        "pause": steering.pause,
        "resume": steering.resume,
        "cancel": steering.cancel,
    }
    return _job(await stored(lambda: acts[action](job_id, now=database.now(), generation=generation)))


@router.put("/{job_id}/budget", operation_id="extendTuningJob", response_model=TuningJobRecord)
async def extend_tuning_job(
    identity: Caller, backend: Back, job_id: JobId, budget: ExtendIn, if_match: IfMatch = None
) -> Response:
    """A larger budget of trials, in all. A job that was done goes on. Needs the right to start trials."""
    record = await job_for(backend, identity, job_id, "update")
    await require_trials(backend, identity, record.tenant, record.spec)
    generation = generation_of(if_match)
    database = database_of(backend)
    steering = Steering(database)
    return _job(
        await stored(lambda: steering.extend(job_id, trials=budget.trials, now=database.now(), generation=generation))
    )


@router.get("/{job_id}/trials", operation_id="listTrials", response_model=TrialList)
async def list_trials(
    identity: Caller,
    backend: Back,
    job_id: JobId,
    state: Annotated[list[TrialState] | None, Query(max_length=8)] = None,
    sort: Literal["number", "value", "-value"] = "number",
    limit: Limit = 50,
    offset: Annotated[int, Query(ge=0, le=_ALL_MAX)] = 0,
) -> Response:
    """Trials, filtered by state, sorted by number or by the first objective (unmeasured ones are left out then)."""
    await job_for(backend, identity, job_id, "get")
    studies = Studies(database_of(backend))
    items = await stored(lambda: studies.page(job_id, states=state or (), order=sort, limit=limit, offset=offset))
    return _document(TrialList(items=items, next=offset + limit if len(items) == limit else None))


@router.get("/{job_id}/trials/{number}", operation_id="getTrial", response_model=TrialOut)
async def get_trial(
    identity: Caller, backend: Back, job_id: JobId, number: Annotated[int, Path(ge=0, le=_ALL_MAX)]
) -> Response:
    """One trial with what its attempts measured."""
    await job_for(backend, identity, job_id, "get")
    studies = Studies(database_of(backend))
    found = await stored(
        lambda: TrialOut(trial=studies.trial(job_id, number), measured=studies.measured(job_id, number=number))
    )
    return _document(found)


@router.get("/{job_id}/best", operation_id="getBest", response_model=TuningDecision)
async def get_best(identity: Caller, backend: Back, job_id: JobId) -> Response:
    """The decision: best configuration, its interval, the gain over the one in use. Before the job has ended: what it
    would be now, with nothing confirmed."""
    return _document(await _decision(backend, identity, job_id))


@router.get("/{job_id}/importance", operation_id="getImportance", response_model=ImportanceOut)
async def get_importance(identity: Caller, backend: Back, job_id: JobId) -> Response:
    """What mattered."""
    found = await _decision(backend, identity, job_id)
    return _document(ImportanceOut(items=found.importance, note=found.importance_note))


@router.get("/{job_id}/pareto", operation_id="getPareto", response_model=ParetoOut)
async def get_pareto(identity: Caller, backend: Back, job_id: JobId) -> Response:
    """Trials of the search that no other one beats in every objective."""
    record = await job_for(backend, identity, job_id, "get")
    studies = Studies(database_of(backend))
    found = await stored(lambda: pareto(record.spec, studies.trials_from(job_id, 0)))
    names = [one.metric for one in record.spec.objectives]
    return _document(ParetoOut(objectives=names, items=[one.trial for one in found]))


@router.get("/{job_id}/events", operation_id="streamTuningJob", response_class=StreamingResponse)
async def stream_tuning_job(identity: Caller, backend: Back, job_id: JobId, request: Request) -> StreamingResponse:
    """What happens to the job as server-sent events, from its first or from after Last-Event-ID; ends with the job."""
    record = await job_for(backend, identity, job_id, "get")
    text = request.headers.get("last-event-id", "0").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Problem(400, "InvalidEventId", "Last-Event-ID is no number of an event.", field="Last-Event-ID")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    events = job_events(backend, database_of(backend), identity, record, int(text))
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


@router.get("/{job_id}/bundle", operation_id="getTuningBundle", response_class=Response)
async def get_bundle(identity: Caller, backend: Back, job_id: JobId) -> Response:
    """A tar.gz to measure best and baseline again elsewhere, with raw samples."""
    record = await job_for(backend, identity, job_id, "get")
    database = database_of(backend)
    body = await stored(lambda: bundle_of(database, record, in_pods=True))
    headers = {"Content-Disposition": f'attachment; filename="{record.name}.tar.gz"'}
    return Response(body, headers=headers, media_type="application/gzip")


@router.get("/{job_id}/report", operation_id="getTuningReport", response_class=Response)
async def get_report(identity: Caller, backend: Back, job_id: JobId) -> Response:
    """The report as one HTML page."""
    record = await job_for(backend, identity, job_id, "get")
    database = database_of(backend)
    text = await stored(lambda: report_of(database, record))
    # The page needs no script; a browser that would find one in it does not run it.
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return Response(text, headers=headers, media_type="text/html")


def own_key(user: str, key: str) -> str:
    """A caller's keys are nobody else's. Names of service accounts take up to 340 characters, the store's keys 255."""
    text = f"{user}:{key}"
    return text if len(text) <= _KEY_MAX else hashlib.sha256(text.encode()).hexdigest()


async def _decision(backend: Backend, identity: Identity, job_id: str) -> TuningDecision:
    record = await job_for(backend, identity, job_id, "get")
    database = database_of(backend)
    return await stored(lambda: decision_of(database, record))
