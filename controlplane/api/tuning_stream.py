"""Events of one tuning job as server-sent events, out of the store: a reader that comes back misses nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from controlplane.api.access import Backend
from controlplane.api.auth import RECHECK_S, Identity
from controlplane.api.problem import Problem
from controlplane.api.stream import HEARTBEAT_S, frame
from controlplane.api.tuning_access import TUNING_JOBS, stored
from controlplane.model.tuning import JobState
from controlplane.model.tuning_records import TuningJobRecord
from controlplane.store.database import Database
from controlplane.store.event_log import EventLog
from controlplane.store.studies import Studies

# How old an event may be when a reader hears of it. The store is asked this often for each reader.
_POLL_S = 1.0
_BATCH = 200
_OPEN = {JobState.RUNNING, JobState.PAUSED}


async def job_events(
    backend: Backend, database: Database, identity: Identity, job: TuningJobRecord, last: int
) -> AsyncIterator[bytes]:
    """Everything after `last`, then what follows, until the job has ended, is gone, or the caller may not see it."""
    recheck_s = time.monotonic() + RECHECK_S
    spoken_s = time.monotonic()
    yield b"retry: 2000\n\n"
    while True:
        if identity.ended(time.time()):
            yield frame("end", b'{"reason":"TokenEnded"}')
            return
        if time.monotonic() >= recheck_s:
            recheck_s = time.monotonic() + RECHECK_S
            if not await backend.authority.allows(identity, "get", TUNING_JOBS, job.tenant, job.name):
                yield frame("end", b'{"reason":"Forbidden"}')
                return
        try:
            head = await stored(lambda: Studies(database).head(job.id))
            events = await stored(lambda: EventLog(database).after(job.id, last, limit=_BATCH))  # noqa: B023 - awaited here
        except Problem as problem:
            if problem.status != 503:
                raise
            head, events = None, []  # the store is away: the reader waits with us
            yield b": the store does not answer\n\n"
            await asyncio.sleep(_POLL_S)
            continue
        for event in events:
            last = event.id
            body = event.model_dump_json(by_alias=True).encode()
            yield frame(event.kind, body, str(event.id))
            spoken_s = time.monotonic()
        if events:
            continue
        if head is None or head.state not in _OPEN:
            yield frame("end", b'{"reason":"JobEnded"}')
            return
        if time.monotonic() - spoken_s >= HEARTBEAT_S:
            spoken_s = time.monotonic()
            yield b": still here\n\n"
        await asyncio.sleep(_POLL_S)
