"""One resource type, cached and observed: reflector in, store kept, handlers told of every change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from controlplane.kube import KubeClient, Resource
from operators.runtime.clock import Clock
from operators.runtime.health import ReflectorHealth
from operators.runtime.objects import Cached, Key, key_of
from operators.runtime.pace import Pace
from operators.runtime.projection import Decoder, Projection
from operators.runtime.reflector import INACTIVITY_S, PAGE_SIZE, Reflector
from operators.runtime.store import Indexer, Store

log = logging.getLogger(__name__)

W = TypeVar("W", bound=msgspec.Struct)
T = TypeVar("T", bound=Cached)

Handler = Callable[[T | None, T | None], None]
"""`(old, new)`: created (None, new), changed (old, new), deleted (old, None). Runs in the event loop: only enqueue.
Both may be the same row when a change arrived that the cache already held (see `Informer.absorb`)."""


@dataclass(slots=True)
class _OwnWrite(Generic[T]):
    """Events of one object while writes of ours are under way: (old, new, whether it may be such a write's own)."""

    held: list[tuple[T | None, T | None, bool]] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)  # versions
    writers: int = 0


class Informer(Generic[W, T]):
    """Add handlers, then `run` it (the manager does). Reads go to `store`."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        projection: Projection[W, T],
        *,
        indexers: Mapping[str, Indexer[T]] | None = None,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        page_size: int = PAGE_SIZE,
        inactivity_s: float = INACTIVITY_S,
        clock: Clock | None = None,
    ) -> None:
        self.resource = resource
        self.name = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
        self.store: Store[T] = Store(indexers)
        self._decoder: Decoder[W, T] = Decoder(projection)
        self._handlers: list[Handler[T]] = []
        self._synced = asyncio.Event()
        self._seen: set[Key] | None = None
        self._unconfirmed: set[Key] = set()
        self._own_writes: dict[Key, _OwnWrite[T]] = {}
        self.handler_errors_total = 0
        self._reflector: Reflector[W, T] = Reflector(
            client,
            resource,
            self._decoder,
            self,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            page_size=page_size,
            inactivity_s=inactivity_s,
            clock=clock,
        )

    @property
    def health(self) -> ReflectorHealth:
        return self._reflector.health

    def follow(self, pace: Pace) -> None:
        """Rest between two reads of the watch as `pace` says."""
        self._reflector.pace = pace

    @property
    def resource_version(self) -> str:
        """The version of the collection that the store shows; empty before the first list."""
        return self._reflector.resource_version

    @property
    def synced(self) -> bool:
        """Whether the first list has been taken in completely."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        await self._synced.wait()

    def add_handler(self, handler: Handler[T]) -> None:
        """`handler(old, new)` for every change from now on; called for each cached object when added late."""
        self._handlers.append(handler)
        for row in self.store.values():
            self._call(handler, None, row)

    async def run(self) -> None:
        """List and watch until cancelled."""
        await self._reflector.run()

    def absorb(self, body: bytes, *, wake: bool = False) -> T | None:
        """Take our own write's answer into the cache at once, instead of waiting for its watch event.

        Without `wake` no handler runs, now or when the event of that very version arrives: our own status write does
        not make us reconcile again. With `wake` the handlers run now: for children whose presence the next reconcile
        must act on although nobody else may touch them. A foreign change the answer includes reaches the handlers
        by its own event in either case. Answers the watch has already passed are ignored. Returns the row now
        cached for the object.
        """
        row = self._decoder.project(self._decoder.object.decode(body))
        key = key_of(row.namespace, row.name)
        cached = self.store.get(key)
        if key in self._own_writes:
            self._own_writes[key].answered.add(row.resource_version)
        if not self.synced or not _newer(row.resource_version, self._reflector.resource_version):
            return cached
        if cached is not None and not _newer(row.resource_version, cached.resource_version):
            return cached
        self.store.put(key, row)
        self._unconfirmed.add(key)
        if wake:
            for handler in self._handlers:
                self._call(handler, cached, row)
        return row

    @contextmanager
    def own_write(self, key: Key) -> Iterator[None]:
        """Around a write of ours to `key` and the `absorb` of its answer, for when the watch is faster than the answer.

        Events of the object reach the cache meanwhile, and the handlers at the end: all of them but that of the very
        version absorbed. Writes that overlap (two owners that want one name) are waited for together.
        """
        write = self._own_writes.setdefault(key, _OwnWrite())
        write.writers += 1
        try:
            yield
        finally:
            write.writers -= 1
            if not write.writers:
                del self._own_writes[key]
                for old, new, maybe_ours in write.held:
                    if not (maybe_ours and new is not None and new.resource_version in write.answered):
                        self._emit(old, new)

    # Sink

    def list_started(self) -> None:
        self._seen = set()

    def upsert(self, row: T, *, listed: bool) -> None:
        key = key_of(row.namespace, row.name)
        old = self.store.get(key)
        if listed and self._seen is not None:
            self._seen.add(key)
        if old is None:
            self.store.put(key, row)
            self._emit(None, row, maybe_ours=not listed)
            return
        if old.uid != row.uid:
            if _newer(old.resource_version, row.resource_version) and key in self._unconfirmed:
                return  # the predecessor of an object we have just created anew
            self._unconfirmed.discard(key)
            self.store.remove(key)
            self._emit(old, None)
            self.store.put(key, row)
            self._emit(None, row, maybe_ours=not listed)
            return
        if old.resource_version == row.resource_version:
            if key in self._unconfirmed:
                self._unconfirmed.discard(key)
                # A list may hide the events of foreign changes that our answer included; a watch cannot.
                if listed:
                    self._emit(old, old)
            return
        if key in self._unconfirmed and _newer(old.resource_version, row.resource_version):
            self._emit(old, old)  # somebody else's change, older than the answer that already includes it
            return
        self._unconfirmed.discard(key)
        self.store.put(key, row)
        self._emit(old, row, maybe_ours=not listed)

    def deleted(self, row: T) -> None:
        key = key_of(row.namespace, row.name)
        old = self.store.get(key)
        if old is None:
            return
        if old.uid != row.uid:
            self._emit(row, None)  # the predecessor of an object we have absorbed: its end is news all the same
            return
        self._unconfirmed.discard(key)
        self.store.remove(key)
        self._emit(row, None)

    def unreadable(self, key: Key, *, deleted: bool) -> None:
        if not deleted:
            if self._seen is not None:
                self._seen.add(key)
            return
        old = self.store.remove(key)
        self._unconfirmed.discard(key)
        if old is not None:
            self._emit(old, None)

    def list_finished(self, resource_version: str) -> None:
        seen, self._seen = self._seen or set(), None
        gone = [key for key in self.store.all_keys() if key not in seen]
        for key in gone:
            row = self.store.get(key)
            if row is None or (key in self._unconfirmed and _newer(row.resource_version, resource_version)):
                continue
            self._unconfirmed.discard(key)
            self.store.remove(key)
            self._emit(row, None)
        self._synced.set()

    def _emit(self, old: T | None, new: T | None, *, maybe_ours: bool = False) -> None:
        if self._own_writes:
            row = new or old
            write = None if row is None else self._own_writes.get(key_of(row.namespace, row.name))
            if write is not None:
                write.held.append((old, new, maybe_ours))
                return
        for handler in self._handlers:
            self._call(handler, old, new)

    def _call(self, handler: Handler[T], old: T | None, new: T | None) -> None:
        try:
            handler(old, new)
        except Exception:
            # One broken handler must not stop the watch for the others.
            self.handler_errors_total += 1
            log.exception("a handler of %s failed", self.resource.plural)


def _newer(version: str, than: str) -> bool:
    """Whether one resourceVersion is later than another of the same resource (comparable since Kubernetes 1.35)."""
    try:
        return int(version) > int(than)
    except ValueError:
        return False
