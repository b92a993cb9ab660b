"""The `TuningJob` controller: looks into the store, does what the plan says, writes the status when it changed.

The store blocks, so every call runs in a thread. Jobs under way are looked at every few seconds, less often while
nothing happens, never per trial; ended ones every few minutes, because somebody may extend or delete them elsewhere.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any, Literal

from controlplane.model.errors import TrimtabError
from controlplane.model.ports import STORE_DOWN, TuningDesk
from controlplane.model.tuning_records import SeenJob
from controlplane.model.tuning_resource import TUNING_FINALIZER
from operators.runtime import (
    DONE,
    Clock,
    Controller,
    ControllerMetrics,
    EventRecorder,
    Fence,
    Informer,
    Key,
    Projection,
    Regarding,
    Result,
    SystemClock,
    Writer,
    with_finalizer,
    without_finalizer,
)
from operators.tuning.news import news
from operators.tuning.plan import OPEN_STATES, Action, Sight, plan
from operators.tuning.row import TuningRow, TuningWire, project_tuning
from operators.tuning.status import status, waits_for

TUNING_PROJECTION: Projection[TuningWire, TuningRow] = Projection(TuningWire, project_tuning)

POLL_S, POLL_MOST_S = 2.0, 5.0
ENDED_S = 300.0
LEAVING_S = 1.0
# The store is away: it is asked again this much later, then twice as late, up to the most.
AWAY_S, AWAY_MOST_S = 2.0, 30.0
# A name that another job has may become free; a spec that the catalogue refuses may suit a later version.
REFUSED_S = {"AlreadyExists": 30.0}
REFUSED_OTHERWISE_S = 300.0
# What the spec names is not there yet.
ABSENT_S = 5.0
# A plan is made anew after each act; none needs more than three.
_ROUNDS = 4
_WORKERS = 4
_EVENT_ACTION = "Reconcile"


class TuningController:
    """`desk` makes the desk when it is first needed, in a thread: what it takes is loaded by who leads and has jobs. None:
    the installation has no database, and every resource says so."""

    def __init__(
        self,
        resources: Informer[Any, TuningRow],
        desk: Callable[[], TuningDesk] | None,
        writer: Writer,
        fence: Fence,
        *,
        recorder: EventRecorder | None = None,
        metrics: ControllerMetrics | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        self._resources = resources
        self._make_desk = desk
        self._made_desk: TuningDesk | None = None
        self._making = threading.Lock()
        self._writer = writer
        self._fence = fence
        self._recorder = recorder
        self._clock: Clock = clock or SystemClock()
        self._jitter = random.Random(seed)
        self._pauses_s: dict[Key, float] = {}
        self.controller = Controller(
            "tuningjob",
            self.reconcile,
            workers=_WORKERS,
            metrics=metrics,
            seeds=resources.store.all_keys,
            clock=self._clock,
        )
        resources.add_handler(self._changed)

    async def reconcile(self, key: Key) -> Result:
        """Bring one job and its resource closer to each other."""
        row = self._resources.store.get(key)
        if row is None:
            self._pauses_s.pop(key, None)
            return DONE
        trouble: TrimtabError | None = None
        try:
            found = await self._act(row)
        except TrimtabError as error:
            trouble = error
            now = self._resources.store.get(key) or row
            found = now, await self._seen_all_the_same(now, error)
        if found is None:
            self._pauses_s.pop(key, None)
            return DONE
        row, seen = found
        written = await self._tell(self._sight(row, seen), trouble)
        return self._again(row, seen, trouble, written)

    async def _act(self, row: TuningRow) -> tuple[TuningRow, SeenJob | None] | None:
        """The resource and the job as they are when nothing is left to do. None: the resource was let go."""
        seen = await self._look(row)
        for _ in range(_ROUNDS):
            actions = plan(self._sight(row, seen))
            for action in actions:
                self._fence.check()
                if action.kind == "release":
                    await self._finalizers(row, without_finalizer(row.finalizers, TUNING_FINALIZER))
                    return None
                if action.kind == "claim":
                    row = await self._finalizers(row, with_finalizer(row.finalizers, TUNING_FINALIZER))
                else:
                    await asyncio.to_thread(self._do, action, row)
            if not any(action.kind != "claim" for action in actions):
                break
            seen = await self._look(row)
        return row, seen

    def _do(self, action: Action, row: TuningRow) -> None:
        """In a thread."""
        desk, spec = self._desk(), row.read().spec
        match action.kind:
            case "open":
                assert spec is not None
                desk.open(row.uid, tenant=row.namespace, name=row.name, spec=spec.job())
            case "pause":
                desk.pause(row.uid)
            case "resume":
                desk.resume(row.uid)
            case "extend":
                desk.extend(row.uid, action.trials)
            case "cancel":
                desk.cancel(row.uid)
            case "delete":
                desk.delete(row.uid)

    async def _look(self, row: TuningRow) -> SeenJob | None:
        return None if self._make_desk is None else await asyncio.to_thread(lambda: self._desk().look(row.uid))

    def _desk(self) -> TuningDesk:
        """In a thread."""
        with self._making:
            if self._made_desk is None:
                assert self._make_desk is not None
                self._made_desk = self._make_desk()
            return self._made_desk

    async def _seen_all_the_same(self, row: TuningRow, error: TrimtabError) -> SeenJob | None:
        """The job after something was refused; None where the store cannot say."""
        if error.reason in STORE_DOWN:
            return None
        try:
            return await self._look(row)
        except TrimtabError:
            return None

    async def _finalizers(self, row: TuningRow, finalizers: tuple[str, ...] | None) -> TuningRow:
        if finalizers is None:
            return row
        with self._resources.own_write(row.key):
            body = await self._writer.set_finalizers(
                self._resources.resource, row.name, row.namespace, finalizers, resource_version=row.resource_version
            )
            return self._resources.absorb(body) or row

    def _sight(self, row: TuningRow, seen: SeenJob | None) -> Sight:
        return Sight(row, row.read(), seen, self._make_desk is not None, self._clock.utc_now())

    async def _tell(self, sight: Sight, trouble: TrimtabError | None) -> bool:
        """Whether there was anything new to write."""
        row, before = sight.row, sight.read.status
        body = status(sight, trouble)
        resource = self._resources.resource
        with self._resources.own_write(row.key):
            written = await self._writer.apply_status(resource, row.name, row.namespace, body, current=before)
            if written is not None:
                self._resources.absorb(written)
        if written is None:
            return False
        if self._recorder is not None:
            about = Regarding(resource.api_version, resource.kind, row.name, row.namespace, row.uid)
            for item in news(before, body):
                kind: Literal["Normal", "Warning"] = "Warning" if item.bad else "Normal"
                self._recorder.event(about, kind, item.reason, item.message, _EVENT_ACTION)
        return True

    def _again(self, row: TuningRow, seen: SeenJob | None, trouble: TrimtabError | None, written: bool) -> Result:
        key = row.key
        if trouble is not None and trouble.reason in STORE_DOWN:
            return self._later(key, AWAY_S, AWAY_MOST_S, reset=False)
        if trouble is not None and waits_for(trouble) is not None:
            return Result(self._spread(ABSENT_S))
        if trouble is not None:
            return Result(self._spread(REFUSED_S.get(trouble.reason, REFUSED_OTHERWISE_S)))
        if seen is None:
            self._pauses_s.pop(key, None)
            return DONE  # not begun, gone, or no database: only the resource itself can change that
        if row.deleting is not None:
            return Result(LEAVING_S)
        if seen.record.state in OPEN_STATES:
            return self._later(key, POLL_S, POLL_MOST_S, reset=written)
        return Result(self._spread(ENDED_S))

    def _later(self, key: Key, first_s: float, most_s: float, *, reset: bool) -> Result:
        known_s = self._pauses_s.get(key)
        pause_s = first_s if reset or known_s is None else min(1.5 * known_s, most_s)
        self._pauses_s[key] = pause_s
        return Result(self._spread(pause_s))

    def _spread(self, pause_s: float) -> float:
        """Up to a tenth longer, so that a thousand jobs do not ask at once."""
        return pause_s * (1 + 0.1 * self._jitter.random())

    def _changed(self, old: TuningRow | None, new: TuningRow | None) -> None:
        row = new or old
        if row is not None:
            self._pauses_s.pop(row.key, None)
            self.controller.enqueue(row.key)
