"""Who may do what to which tuning job, and the store's refusals as problems.

A job belongs to a namespace; the cluster's rights on `tuningjobs.trimtab.dev` there decide. A job that the caller may not
see does not exist for the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from controlplane.api.access import Backend, require
from controlplane.api.auth import Identity
from controlplane.api.problem import Problem
from controlplane.kube import Resource
from controlplane.model.errors import Refused, TrimtabError, UnknownName
from controlplane.model.ports import STORE_DOWN
from controlplane.model.resource import GROUP, VERSION
from controlplane.model.tuning_records import TuningJobRecord
from controlplane.store.database import Database
from controlplane.store.jobs import Jobs

TUNING_JOBS = Resource(GROUP, VERSION, "tuningjobs", "TuningJob")
# Refusals of the store that say something about the job's state, not about the body.
_STATUS = {"AlreadyExists": 409, "WrongState": 409, "Changed": 412, "IdempotencyMismatch": 422, "IdempotencyGone": 409}
# Refusals to write a setting into a deployment: about the decision or the deployment as it is.
_STATUS |= dict.fromkeys(
    ("NotDecided", "NoWinner", "NotBetter", "EngineDiffers", "DeploymentDiffers", "NothingToUndo", "SettingsChanged"),
    409,
)
T = TypeVar("T")


def database_of(backend: Backend) -> Database:
    """Raises Problem 503 where the installation has no database."""
    if backend.tuning is None:
        raise Problem(
            503, "NoDatabase", "Tuning jobs need a database, and none is set.", hint="Set TRIMTAB_DATABASE_URL."
        )
    return backend.tuning


async def stored(act: Callable[[], T]) -> T:
    """Something of the store, in a thread; its refusals as problems."""
    try:
        return await asyncio.to_thread(act)
    except UnknownName as error:
        if error.field == "trial":
            raise Problem(404, "NotFound", str(error)) from None
        if error.field != "job":
            raise
        raise _no_job(str(error.value)) from None
    except Refused as error:
        raise problem_of(error) from None


def problem_of(error: TrimtabError) -> Problem:
    extra = error.as_dict()
    code = extra.pop("code")
    extra.pop("message")
    if code in STORE_DOWN or code == "StoreNotMigrated":
        problem = Problem(503, code, str(error), **extra)
        problem.headers["Retry-After"] = "5"
        return problem
    return Problem(_STATUS.get(code, 422), code, str(error), **extra)


async def job_for(backend: Backend, identity: Identity, job: str, verb: str) -> TuningJobRecord:
    """The job, if the caller may see it and do this to it. Raises Problem 404 or 403."""
    database = database_of(backend)
    record = await stored(lambda: Jobs(database).get(job))
    if not await backend.authority.allows(identity, "get", TUNING_JOBS, record.tenant, record.name):
        raise _no_job(job)
    if verb != "get":
        await require(backend, identity, verb, TUNING_JOBS, record.tenant, record.name)
    return record


def generation_of(if_match: str | None) -> int | None:
    """The generation that a caller read. Raises Problem 400 for what is none of ours."""
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().removeprefix("W/").strip('"')
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Problem(400, "InvalidIfMatch", "If-Match is no ETag of a tuning job.", hint="Send the ETag you read.")
    return int(text)


def _no_job(job: str) -> Problem:
    return Problem(404, "NotFound", f"There is no tuning job {job[:80]!r}.")
