"""Kubernetes Events: what a person sees under `kubectl describe`. Best effort by design.

A recorder never delays or fails a reconcile: the queue is bounded, equal events are counted instead of repeated,
each object has a budget, and what cannot be written is dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

from controlplane.kube import EVENTS, KubeClient, KubeError, NotFound
from operators.runtime.clock import Clock, SystemClock, rfc3339_micro
from operators.runtime.fence import FenceLost
from operators.runtime.token_bucket import TokenBucket

log = logging.getLogger(__name__)

EventType = Literal["Normal", "Warning"]

# events.k8s.io/v1 validation: note at most 1,024 bytes, reason and action at most 128 characters.
NOTE_LIMIT_BYTES = 1_024
_REASON_LIMIT_CHARS = 128
# client-go tools/record/events_cache.go: 25 events at once per object, then one every 5 minutes; 4,096 objects kept.
OBJECT_BURST = 25
OBJECT_RATE_PER_S = 1 / 300
_MEMORY_OBJECTS = 4_096
_QUEUE_LIMIT = 1_000
# client-go tools/events: a repeated event becomes a series, finished after 6 minutes of quiet.
SERIES_S = 360.0
_CALL_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object an event is about."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""


@dataclass(slots=True)
class _Series:
    name: str
    namespace: str
    count: int
    last_s: float
    written: bool = False


@dataclass(frozen=True, slots=True)
class _Note:
    regarding: Regarding
    type: EventType
    reason: str
    note: str
    action: str


class EventRecorder:
    """`event()` from anywhere in the loop; `run()` writes. `lost_total` counts what nobody will see."""

    def __init__(
        self, client: KubeClient, component: str, *, instance: str | None = None, clock: Clock | None = None
    ) -> None:
        self._client = client
        self._component = component
        self._instance = instance or f"{component}-{os.uname().nodename}"
        self._clock: Clock = clock or SystemClock()
        self._queue: asyncio.Queue[_Note] = asyncio.Queue(_QUEUE_LIMIT)
        self._series: OrderedDict[_Note, _Series] = OrderedDict()
        self._budgets: OrderedDict[Regarding, TokenBucket] = OrderedDict()
        self._number = 0
        self.lost_total = 0

    def event(self, regarding: Regarding, type: EventType, reason: str, note: str, action: str) -> None:
        """Record that `action` was taken (or refused) on `regarding`, why, in words for people. Never raises."""
        text = note.encode()[:NOTE_LIMIT_BYTES].decode("utf-8", "ignore")
        try:
            self._queue.put_nowait(
                _Note(regarding, type, reason[:_REASON_LIMIT_CHARS], text, action[:_REASON_LIMIT_CHARS])
            )
        except asyncio.QueueFull:
            self.lost_total += 1

    async def run(self) -> None:
        """Write events until cancelled."""
        while True:
            await self._write(await self._queue.get())

    async def flush(self, limit_s: float) -> None:
        """Write what is queued, for at most `limit_s`: for the way out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not self._queue.empty():
                    await self._write(self._queue.get_nowait())

    async def _write(self, note: _Note) -> None:
        try:
            await self._record(note)
        except (KubeError, FenceLost, OSError) as error:
            self.lost_total += 1
            log.debug("event %s on %s not written: %s", note.reason, note.regarding.name, error)
        except Exception:
            self.lost_total += 1
            log.exception("event %s on %s not written", note.reason, note.regarding.name)

    async def _record(self, note: _Note) -> None:
        now_s = self._clock.monotonic_s()
        series = self._series.get(note)
        # One that could not be written is tried anew, or its repeats would hide it for as long as they go on.
        if series is not None and series.written and now_s - series.last_s < SERIES_S:
            series.count += 1
            series.last_s = now_s
            # Powers of two: a loop that repeats an event a thousand times costs ten writes.
            if series.count & (series.count - 1) == 0:
                try:
                    await self._update_series(series)
                except NotFound:
                    del self._series[note]  # its event has expired on the server
            return
        if not self._within_budget(note.regarding):
            self.lost_total += 1
            return
        self._number += 1
        namespace = note.regarding.namespace or "default"  # events about cluster-scoped objects live there
        stamp = f"{int(self._clock.utc_now().timestamp() * 1e6):x}{self._number:x}"
        series = _Series(f"{note.regarding.name[:200]}.{stamp}", namespace, 1, now_s)
        self._series[note] = series
        while len(self._series) > _MEMORY_OBJECTS:
            self._series.popitem(last=False)
        await self._client.create(EVENTS, self._body(note, series), namespace, timeout_s=_CALL_TIMEOUT_S)
        series.written = True

    def _within_budget(self, regarding: Regarding) -> bool:
        budget = self._budgets.get(regarding)
        if budget is None:
            budget = self._budgets[regarding] = TokenBucket(self._clock, OBJECT_RATE_PER_S, OBJECT_BURST)
            while len(self._budgets) > _MEMORY_OBJECTS:
                self._budgets.popitem(last=False)
        return budget.try_take()

    async def _update_series(self, series: _Series) -> None:
        observed = rfc3339_micro(self._clock.utc_now())
        await self._client.patch(
            EVENTS,
            {"series": {"count": series.count, "lastObservedTime": observed}},
            series.name,
            series.namespace,
            timeout_s=_CALL_TIMEOUT_S,
        )

    def _body(self, note: _Note, series: _Series) -> dict[str, Any]:
        about = note.regarding
        regarding = {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "name": about.name,
            "namespace": about.namespace,
            "uid": about.uid,
        }
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": series.name, "namespace": series.namespace},
            "eventTime": rfc3339_micro(self._clock.utc_now()),
            "reportingController": self._component,
            "reportingInstance": self._instance[:128],
            "type": note.type,
            "reason": note.reason,
            "action": note.action,
            "note": note.note,
            "regarding": {key: value for key, value in regarding.items() if value},
        }
