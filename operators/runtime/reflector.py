"""Keeps a sink in step with one collection of the API server: paged list, then watch, for ever.

What can happen to a watch, and what follows:
    event, bookmark             remember its resourceVersion
    410, as status or event     list again; the sink sees exactly the differences
    end of stream, clean or cut resume from the last version after a short jittered pause
    silence                     after `inactivity_s` give the connection up and resume
    401, 403, other errors      growing pause, visible in `health`; the cache keeps serving what it has
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec

from controlplane.kube import Gone, KubeClient, KubeError, Resource, ResponseTooLarge, Timeout, error_from
from operators.runtime.clock import Clock, SystemClock
from operators.runtime.health import ReflectorHealth
from operators.runtime.objects import Cached, Key, key_of
from operators.runtime.pace import Pace
from operators.runtime.projection import Decoder

log = logging.getLogger(__name__)

W = TypeVar("W", bound=msgspec.Struct)
T = TypeVar("T", bound=Cached)
T_contra = TypeVar("T_contra", bound=Cached, contravariant=True)

PAGE_SIZE = 500
# The server sends a bookmark about once a minute; a watch silent for longer than that is taken for dead.
INACTIVITY_S = 70.0
# The server ends the watch after a time in this range, so that a fleet of watches does not reconnect at once.
SERVER_TIMEOUT_RANGE_S = (240, 480)
# Items decoded between two chances for the event loop to run something else (about 4 ms of work).
_SLICE = 250
# A read of so many events needs no waiting for more: they are cheap already, and there is a backlog.
_FULL_READ = 100
_PAUSE_BASE_S = 0.1
_PAUSE_MAX_S = 30.0
# A watch that lived this long, or delivered anything, was a success: the next failure starts at a short pause.
_HEALTHY_WATCH_S = 5.0


class Sink(Protocol[T_contra]):
    """Where the reflector puts what it sees."""

    def list_started(self) -> None: ...
    def upsert(self, row: T_contra, *, listed: bool) -> None: ...
    def deleted(self, row: T_contra) -> None: ...
    def list_finished(self, resource_version: str) -> None: ...

    def unreadable(self, key: Key, *, deleted: bool) -> None:
        """An object nobody could decode was listed or changed (what is known of it stays), or `deleted`."""
        ...


class Reflector(Generic[W, T]):
    """`run` until cancelled."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        decoder: Decoder[W, T],
        sink: Sink[T],
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        page_size: int = PAGE_SIZE,
        inactivity_s: float = INACTIVITY_S,
        clock: Clock | None = None,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._client = client
        self._resource = resource
        self._decoder = decoder
        self._sink = sink
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._page_size = page_size
        self._inactivity_s = inactivity_s
        self._clock: Clock = clock or SystemClock()
        self._jitter = jitter
        self._must_list = True
        self._failures = 0
        self._gone = 0
        self.pace = Pace()
        self.resource_version = ""
        self.health = ReflectorHealth(self._clock)

    async def run(self) -> None:
        """List and watch until cancelled; no error of the cluster ends it."""
        while True:
            try:
                if self._must_list:
                    await self._list()
                    self._must_list = False
                    self._failures = self._gone  # a list that only leads to the next 410 is no success
                await self._watch()
            except Gone as error:
                log.info("%s: %s; listing again", self._resource.plural, error.message)
                self.health.gone_total += 1
                self._must_list = True
                self._gone += 1
                self._failures = self._gone
            except (KubeError, msgspec.MsgspecError) as error:
                self._failures += 1
                self.health.failed(error)
                log.warning("%s: %s (failure %d in a row)", self._resource.plural, error, self._failures)
            except OSError as error:  # a credential file that vanished, a plug-in that cannot start
                self._failures += 1
                self.health.failed(error)
                log.warning("%s: %s", self._resource.plural, error)
            await self._clock.sleep(self._pause_s())

    def _pause_s(self) -> float:
        ceiling_s = min(_PAUSE_MAX_S, _PAUSE_BASE_S * 2.0 ** min(self._failures, 20))
        return self._jitter(0.5 * ceiling_s, ceiling_s)

    # list

    async def _list(self) -> None:
        page_size = self._page_size
        while True:
            try:
                await self._list_once(page_size)
                return
            except ResponseTooLarge:
                if page_size <= 1:
                    raise
                page_size = max(1, page_size // 4)
            except Gone:
                # The continue token expired under us: fewer, larger pages get through before compaction.
                self.health.gone_total += 1
                if page_size > 64 * self._page_size:
                    raise
                page_size *= 4

    async def _list_once(self, page_size: int) -> None:
        self._sink.list_started()
        token: str | None = None
        version = ""
        while True:
            body = await self._client.list_page(
                self._resource,
                self._namespace,
                label_selector=self._label_selector,
                field_selector=self._field_selector,
                limit=page_size,
                continue_token=token,
            )
            version, token = await self._take_page(body)
            if not token:
                break
        self.resource_version = version
        self._sink.list_finished(version)
        self.health.listed()

    async def _take_page(self, body: bytes) -> tuple[str, str]:
        project = self._decoder.project
        try:
            page = self._decoder.page.decode(body)
        except msgspec.ValidationError:
            return await self._take_page_one_by_one(body)
        items = page.items
        for start in range(0, len(items), _SLICE):
            for item in items[start : start + _SLICE]:
                try:
                    row = project(item)
                except Exception as error:
                    self._undecodable(msgspec.json.encode(item), error)
                    continue
                self._sink.upsert(row, listed=True)
            await asyncio.sleep(0)
        return page.metadata.resourceVersion, page.metadata.continue_

    async def _take_page_one_by_one(self, body: bytes) -> tuple[str, str]:
        page = self._decoder.raw_page.decode(body)
        for count, raw in enumerate(page.items):
            row = self._row(raw)
            if row is not None:
                self._sink.upsert(row, listed=True)
            if count % 50 == 49:
                await asyncio.sleep(0)
        return page.metadata.resourceVersion, page.metadata.continue_

    def _row(self, raw: msgspec.Raw) -> T | None:
        try:
            return self._decoder.project(self._decoder.object.decode(raw))
        except Exception as error:  # the projection is the author's code, the object anybody's
            self._undecodable(raw, error)
            return None

    def _undecodable(self, raw: bytes | msgspec.Raw, error: Exception, *, deleted: bool = False) -> None:
        # One malformed object must cost that object, not the cache of all others.
        self.health.undecodable_total += 1
        seen = self._decoder.identity(raw)
        key = key_of(seen.namespace, seen.name) if seen.name else "?"
        if seen.name:
            self._sink.unreadable(key, deleted=deleted)
        what = "it is deleted all the same" if deleted and seen.name else "the cache keeps what it had"
        log.error("%s %s cannot be decoded; %s: %s", self._resource.kind, key, what, error)

    # watch

    async def _watch(self) -> None:
        low_s, high_s = SERVER_TIMEOUT_RANGE_S
        started_s = self._clock.monotonic_s()
        events_before = self.health.events_total
        opened = False
        try:
            async with self._client.watch(
                self._resource,
                self._namespace,
                resource_version=self.resource_version,
                label_selector=self._label_selector,
                field_selector=self._field_selector,
                server_timeout_s=int(self._jitter(low_s, high_s)),
            ) as stream:
                opened = True
                self.health.watching()
                while (lines := await stream.next_batch(self._inactivity_s)) is not None:
                    self.health.heard()
                    for start in range(0, len(lines), _SLICE):
                        self._take_events(lines[start : start + _SLICE])
                        await asyncio.sleep(0)
                    if self.pace.interval_s > 0 and len(lines) < _FULL_READ:
                        stream.hold()
                        await self.pace.rest()
                        stream.release()
                self.health.ended(cut=stream.cut)
        except Timeout:
            if not opened:
                raise
            # Silence is not a failure of the server: it may just have nothing to say and no bookmark to send.
            self.health.silent_total += 1
        finally:
            self.health.not_watching()
            lived_s = self._clock.monotonic_s() - started_s
            if self.health.events_total > events_before or lived_s >= _HEALTHY_WATCH_S:
                self._failures = self._gone = 0
        if lived_s < _HEALTHY_WATCH_S and self.health.events_total == events_before:
            self._failures += 1  # a server that hangs up at once must not be called in a tight loop

    def _take_events(self, lines: list[bytes]) -> None:
        decode, project, sink = self._decoder.event.decode, self._decoder.project, self._sink
        for line in lines:
            try:
                event = decode(line)
            except msgspec.ValidationError as error:
                self._take_odd_event(line, error)
                continue
            kind = event.type
            if kind == "BOOKMARK":
                self._bookmark(line)
                continue
            if kind == "ERROR":
                self._raise_error_event(line)
            try:
                row = project(event.object)
            except Exception as error:
                self._take_odd_event(line, error)
                continue
            if kind == "DELETED":
                sink.deleted(row)
            else:
                sink.upsert(row, listed=False)
            self.resource_version = row.resource_version
        self.health.events_total += len(lines)

    def _take_odd_event(self, line: bytes, error: Exception) -> None:
        """A line the fast decoder refused: a bookmark or error of another shape, or an object we cannot read."""
        raw = self._decoder.raw_event.decode(line)
        if raw.type == "ERROR":
            self._raise_error_event(line)
        if raw.type != "BOOKMARK":
            self._undecodable(raw.object, error, deleted=raw.type == "DELETED")
        self._bookmark(line)

    def _bookmark(self, line: bytes) -> None:
        raw = self._decoder.raw_event.decode(line)
        version = self._decoder.identity(raw.object).resource_version
        if version:
            self.resource_version = version

    def _raise_error_event(self, line: bytes) -> None:
        body = bytes(self._decoder.raw_event.decode(line).object)
        error = error_from(0, body, what=f"WATCH {self._resource.plural}")
        code = msgspec.json.decode(body, type=dict[str, object]).get("code")
        status = code if isinstance(code, int) else 500
        raise error_from(status, body, what=error.what)
