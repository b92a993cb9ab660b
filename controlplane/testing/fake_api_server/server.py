"""`FakeApiServer`: the fake storage behind real HTTP on a loopback port, with faults on demand."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from datetime import UTC, datetime
from typing import Any

from controlplane.testing.fake_api_server.faults import Fault
from controlplane.testing.fake_api_server.http import HEAD_LIMIT_BYTES, Request, answer, read_request
from controlplane.testing.fake_api_server.reviews import FakeReviews
from controlplane.testing.fake_api_server.selectors import Selector
from controlplane.testing.fake_api_server.storage import FakeStorage, Object, Refusal
from controlplane.testing.fake_api_server.watches import FakeWatches


class FakeApiServer:
    """Any group, version and plural is served; nothing is validated beyond what the storage says.

    Not the real thing: no defaulting, schemas, RBAC, garbage collection or managedFields encoding. `requests` keeps
    (method, path, token) of the latest 100,000 requests, for tests that count writes. `reviews` None: reviews are stored
    like any object and get no answer.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._rng = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._down = False
        self.storage = FakeStorage(lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        self.watches = FakeWatches(self.storage)
        self.faults: list[Fault] = []
        self.accepted_tokens: set[str] | None = None
        self.reviews: FakeReviews | None = None
        self.requests: deque[tuple[str, str, str | None]] = deque(maxlen=100_000)
        self.connections_total = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> FakeApiServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a `stop`, on the same port and with the same objects."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=HEAD_LIMIT_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and cut those there are, as a killed API server does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def writes(self) -> list[tuple[str, str]]:
        """(method, path) of every request so far that was not a read."""
        return [(method, path) for method, path, _ in self.requests if method != "GET"]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.connections_total += 1
        try:
            while (request := await read_request(reader)) is not None:
                if not await self._handle(request, writer):
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or the server is being stopped
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _handle(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """False when the connection must be closed."""
        watching = request.query.get("watch") in ("true", "1")
        method = "WATCH" if watching else request.method
        self.requests.append((request.method, request.path, request.token))
        fault = next((f for f in self.faults if f.applies(method, request.path, self._rng)), None)
        if fault is not None:
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            if fault.hang:
                await asyncio.Event().wait()
            if fault.drop_before:
                return False
            if fault.status is not None:
                body = _status_body(fault.status, "Injected", "a fault of the fake API server")
                writer.write(answer(fault.status, body, fault.retry_after_s))
                await writer.drain()
                return True
        try:
            if self.accepted_tokens is not None and request.token not in self.accepted_tokens:
                raise Refusal(401, "Unauthorized", "Unauthorized")
            if watching:
                return await self._watch(request, writer)
            status, obj = self._dispatch(request)
            body = json.dumps(obj, separators=(",", ":")).encode()
        except Refusal as refusal:
            status, body = refusal.status, _status_body(refusal.status, refusal.reason, str(refusal))
        if fault is not None and fault.drop_after:
            return False
        writer.write(answer(status, body))
        await writer.drain()
        return True

    async def _watch(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        collection, namespace, name, _ = _address(request)
        query = request.query
        selector = Selector(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        if name:
            selector = Selector("", f"metadata.name={name}")
        timeout_s = float(query["timeoutSeconds"]) if "timeoutSeconds" in query else None
        return await self.watches.serve(
            writer, collection, namespace, selector, query.get("resourceVersion", ""), timeout_s
        )

    def _dispatch(self, request: Request) -> tuple[int, Object]:
        collection, namespace, name, subresource = _address(request)
        storage, query = self.storage, request.query
        if subresource not in ("", "status"):
            raise Refusal(404, "NotFound", f"the fake serves no subresource {subresource!r}")
        in_status = subresource == "status"
        where = namespace or ""
        body: Object = json.loads(request.body) if request.body else {}
        if self.reviews is not None and request.method == "POST":
            review = self.reviews.answer(collection, body)
            if review is not None:
                return 201, review
        match request.method:
            case "GET" if name:
                return 200, storage.get(collection, where, name)
            case "GET":
                return 200, self._list(collection, namespace, query, body)
            case "POST" if not name:
                body.pop("status", None)  # it has an endpoint of its own
                return 201, storage.create(collection, where, body)
            case "PUT":
                return 200, storage.replace(collection, where, name, body, status_only=in_status)
            case "PATCH" if "apply-patch" in request.headers.get("content-type", ""):
                before = storage.version
                obj = storage.apply(
                    collection,
                    where,
                    name,
                    body,
                    query.get("fieldManager", ""),
                    force=query.get("force") == "true",
                    status_only=in_status,
                )
                created = storage.version > before and obj["metadata"].get("generation") == 1
                return (201 if created and not in_status else 200), obj
            case "PATCH" if "merge-patch" in request.headers.get("content-type", ""):
                return 200, storage.merge(collection, where, name, body, status_only=in_status)
            case "DELETE" if name:
                return 200, storage.delete(collection, where, name, body.get("preconditions") or {})
        raise Refusal(405, "MethodNotAllowed", f"the fake does not serve {request.method} {request.path} like this")

    def _list(self, collection: str, namespace: str | None, query: dict[str, str], _: Any) -> Object:
        selector = Selector(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        page = self.storage.page(
            collection, namespace, selector, int(query.get("limit", "0")), query.get("continue", "")
        )
        metadata: Object = {"resourceVersion": str(page.version)}
        if page.token:
            metadata |= {"continue": page.token, "remainingItemCount": page.remaining}
        return {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": page.items}


def _address(request: Request) -> tuple[str, str | None, str, str]:
    """(collection, namespace or None, name, subresource)."""
    parts = request.segments
    if parts[0] == "api" and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise Refusal(404, "NotFound", f"the server could not find the requested resource {request.path}")
    namespace: str | None = None
    if rest[0] == "namespaces" and len(rest) >= 3:
        namespace, rest = rest[1], rest[2:]
    padded = [*rest, "", ""]
    return f"{group}/{version}/{padded[0]}", namespace, padded[1], padded[2]


def _status_body(code: int, reason: str, message: str) -> bytes:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    return json.dumps(status | {"message": message}).encode()
