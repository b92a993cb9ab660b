"""Open watches of the fake API server, and the ways to disturb them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from controlplane.testing.fake_api_server.http import STREAM_END, STREAM_HEAD, chunk
from controlplane.testing.fake_api_server.selectors import Selector
from controlplane.testing.fake_api_server.storage import Change, FakeStorage, Object, Refusal

_END = None


@dataclass(eq=False, slots=True)
class _Watch:
    collection: str
    namespace: str | None
    selector: Selector
    queue: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    cut: bool = False


class FakeWatches:
    """One per server. `frozen` watches stay open and say nothing; `duplicate` sends every event twice."""

    def __init__(self, storage: FakeStorage) -> None:
        self._storage = storage
        self._open: set[_Watch] = set()
        self.frozen = False
        self.duplicate = False
        self.started_total = 0
        self.resumed_from: list[str] = []
        storage.listeners.append(self._changed)

    def __len__(self) -> int:
        return len(self._open)

    def end(self, *, clean: bool = True) -> None:
        """End every open watch: with the final chunk, or by cutting the connection in the middle."""
        for watch in self._open:
            watch.cut = not clean
            watch.queue.put_nowait(_END)

    def bookmark(self) -> None:
        """Send every open watch a bookmark of the current version."""
        for watch in self._open:
            metadata = {"resourceVersion": str(self._storage.version), "creationTimestamp": None}
            self._put(watch, "BOOKMARK", {"kind": "Bookmark", "apiVersion": "v1", "metadata": metadata})

    def send_raw(self, data: bytes) -> None:
        """Put bytes on every open watch as they are."""
        for watch in self._open:
            watch.queue.put_nowait(data)

    def send_error(self, code: int, reason: str, message: str) -> None:
        """Send every open watch an ERROR event, as the server does when a watch has become too old."""
        for watch in self._open:
            self._put(watch, "ERROR", _status(code, reason, message))

    async def serve(
        self,
        writer: asyncio.StreamWriter,
        collection: str,
        namespace: str | None,
        selector: Selector,
        version: str,
        timeout_s: float | None,
    ) -> bool:
        """Stream until the end; False when the connection has to be closed."""
        self.started_total += 1
        self.resumed_from.append(version)
        watch = _Watch(collection, namespace, selector)
        writer.write(STREAM_HEAD)
        try:
            if version in ("", "0"):
                for obj in self._storage.objects(collection):
                    self._event(watch, Change(0, "ADDED", collection, None, obj))
            else:
                for change in self._storage.changes_since(int(version)):
                    self._event(watch, change)
        except Refusal as refusal:
            # A real server answers a too old version inside the stream as well, with status 200.
            line = {"type": "ERROR", "object": _status(refusal.status, refusal.reason, str(refusal))}
            writer.write(chunk(json.dumps(line).encode() + b"\n") + STREAM_END)
            await writer.drain()
            return True
        self._open.add(watch)
        try:
            async with asyncio.timeout(timeout_s):
                while (data := await watch.queue.get()) is not _END:
                    writer.write(chunk(data))
                    await writer.drain()
        except TimeoutError:
            pass
        finally:
            self._open.discard(watch)
        if watch.cut:
            return False
        writer.write(STREAM_END)
        await writer.drain()
        return True

    def _changed(self, change: Change) -> None:
        if self.frozen:
            return
        for watch in self._open:
            self._event(watch, change)
            if self.duplicate:
                self._event(watch, change)

    def _event(self, watch: _Watch, change: Change) -> None:
        namespace = change.after["metadata"].get("namespace", "")
        if watch.collection != change.collection or watch.namespace not in (None, namespace):
            return
        was = change.before is not None and watch.selector.matches(change.before)
        is_in = change.type != "DELETED" and watch.selector.matches(change.after)
        if was and not is_in:
            self._put(watch, "DELETED", change.after)
        elif is_in:
            self._put(watch, "MODIFIED" if was else "ADDED", change.after)

    @staticmethod
    def _put(watch: _Watch, kind: str, obj: Object) -> None:
        line = json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"
        watch.queue.put_nowait(line)


def _status(code: int, reason: str, message: str) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
