"""A job's best setting rolled out into a serving deployment over HTTP, and taken back: written with the caller's token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body
from fastapi.responses import Response
from pydantic import Field

from controlplane.api import writes
from controlplane.api.access import Backend
from controlplane.api.auth import Identity
from controlplane.api.cache import SERVING_DEPLOYMENTS
from controlplane.api.documents import problems
from controlplane.api.tuning_access import database_of, job_for, problem_of, stored
from controlplane.api.tuning_routes import Back, Caller, JobId
from controlplane.model.canary import Canary
from controlplane.model.errors import Refused
from controlplane.model.resource import DnsLabel, Part
from controlplane.model.tuning_apply import Applied
from controlplane.model.tuning_records import TuningJobRecord
from controlplane.tuning_apply import Document, Patch, apply_best
from controlplane.tuning_files import decision_of, latencies_of
from controlplane.tuning_undo import take_back

router = APIRouter(prefix="/v1/tuning-jobs", responses=problems(), tags=["tuning"])


class _Where(Part):
    deployment: DnsLabel = Field(description="The ServingDeployment.")
    namespace: DnsLabel | None = Field(default=None, description="Its namespace; the job's own when absent.")
    dry_run: bool = Field(default=False, description="Judged by the cluster, and not written.")


class ApplyIn(_Where):
    """Which deployment gets the settings, and how."""

    canary: Canary | None = Field(
        default=None, description="Try them beside what serves now; as the deployment says when absent."
    )
    every_choice: bool = Field(
        default=False, description="Into every accelerator choice with this engine, not only the first."
    )
    force: bool = Field(
        default=False, description="Although they are not shown to be better, or another deployment was tuned."
    )


class UndoIn(_Where):
    """Which deployment gets back what it had."""

    force: bool = Field(default=False, description="Although somebody changed the settings since.")


@router.post("/{job_id}/apply", operation_id="applyTuningJob", response_model=Applied)
async def apply_tuning_job(
    identity: Caller,
    backend: Back,
    job_id: JobId,
    wanted: Annotated[ApplyIn, Body(examples=[{"deployment": "chat", "canary": {"replicas": 1}}])],
) -> Response:
    """Write the job's best setting into a deployment, with the caller's own rights. The answer shows every field before
    and after; what stood there is kept in an annotation for the way back."""
    record = await job_for(backend, identity, job_id, "get")
    database = database_of(backend)
    decision = await stored(lambda: decision_of(database, record))
    measured = await stored(lambda: latencies_of(database, record, decision))

    def patch_of(document: Document) -> Patch:
        return apply_best(
            record,
            decision,
            document,
            canary=wanted.canary,
            force=wanted.force,
            every_choice=wanted.every_choice,
            measured=measured,
        )

    return await _written(backend, identity, record, wanted, patch_of)


@router.post("/{job_id}/undo", operation_id="undoTuningJob", response_model=Applied)
async def undo_tuning_job(
    identity: Caller, backend: Back, job_id: JobId, wanted: Annotated[UndoIn, Body(examples=[{"deployment": "chat"}])]
) -> Response:
    """Bring back what stood in the deployment before this job's setting was applied."""
    record = await job_for(backend, identity, job_id, "get")
    return await _written(
        backend, identity, record, wanted, lambda document: take_back(document, job=record.id, force=wanted.force)
    )


async def _written(
    backend: Backend, identity: Identity, record: TuningJobRecord, wanted: _Where, patch_of: Callable[[Document], Patch]
) -> Response:
    """Read, decide, write: all three as the caller, on the version that was read."""
    namespace, name = wanted.namespace or record.tenant, wanted.deployment
    found = await backend.client.get(SERVING_DEPLOYMENTS, name, namespace, token=identity.token)
    document: dict[str, Any] = msgspec.json.decode(found)
    try:
        patch = patch_of(document)
    except Refused as error:
        raise problem_of(error) from None
    if patch.body:
        await writes.patch(
            backend.client, identity, SERVING_DEPLOYMENTS, namespace, name, patch.body, dry_run=wanted.dry_run
        )
    out = Applied(
        job=record.id,
        namespace=namespace,
        deployment=name,
        written=bool(patch.body) and not wanted.dry_run,
        changes=list(patch.changes),
        warnings=list(patch.warnings),
        undo=f"POST /v1/tuning-jobs/{record.id}/undo",
    )
    return Response(out.model_dump_json(by_alias=True), media_type="application/json")
