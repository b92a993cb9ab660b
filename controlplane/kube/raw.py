"""`RawClient`: one request to one API server, with connection reuse, a deadline, safe retries and typed errors."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self
from urllib.parse import urlencode

import msgspec

from controlplane.kube.config import ClusterAccess
from controlplane.kube.connection import Response
from controlplane.kube.errors import KubeError, Timeout, Unauthorized, Unreachable, error_from
from controlplane.kube.pool import ConnectionPool

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML; the server reads it as such
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

DEFAULT_TIMEOUT_S = 30.0
# A list page of 500 pods at 100 KiB each; one object is at most 3 MiB.
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
MAX_WATCH_LINE_BYTES = 8 * 1024 * 1024
_RETRIES = 4
_RETRY_BASE_S = 0.05
_RETRY_AFTER_CAP_S = 10.0
# The server retries nothing for us: 503 comes while it starts or stops, 429 from priority and fairness.
_SHED_STATUSES = frozenset({429, 503})

# Values that mean themselves in a query string; urlencode costs ten times as much as asking.
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9.\-_]*")
Query = Mapping[str, str | int | bool | None]
Body = bytes | Mapping[str, Any] | msgspec.Struct
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Call:
    """One request as it will be sent. `target` is path and query, `what` names it in errors."""

    method: str
    target: str
    what: str
    payload: bytes | None = None
    content_type: str = JSON
    token: str | None = None
    retry: bool = True
    urgent: bool = False
    before_send: Callable[[], None] | None = None


class RequestObserver(Protocol):
    """Told of every attempt; `code` is the status as text, or `<error>` when no answer came."""

    def __call__(self, method: str, host: str, code: str, duration_s: float) -> None: ...


class RawClient:
    """Raises `KubeError` subclasses; bodies come back as bytes for the caller to decode.

    `before_send` of a request is called synchronously right before its bytes go to the socket, on every attempt:
    the place where a fence can still stop a write.
    """

    def __init__(
        self,
        access: ClusterAccess,
        *,
        max_connections: int = 32,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        max_watch_line_bytes: int = MAX_WATCH_LINE_BYTES,
        user_agent: str = "trimtab",
        observer: RequestObserver | None = None,
    ) -> None:
        self.access = access
        self.timeout_s = timeout_s
        self.observer = observer
        self._max_watch_line_bytes = max_watch_line_bytes
        self._pool = ConnectionPool(access, max_connections=max_connections, max_response_bytes=max_response_bytes)
        self._fixed_headers = (
            f" HTTP/1.1\r\nHost: {access.host_header}\r\nUser-Agent: {user_agent}\r\nAccept: application/json\r\n"
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection; requests and watches under way fail with Unreachable."""
        self._pool.close()
        await asyncio.sleep(0)  # lets the transports run their connection_lost

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Body | list[Any] | None = None,
        content_type: str = JSON,
        token: str | None = None,
        timeout_s: float | None = None,
        retry: bool = True,
        urgent: bool = False,
        before_send: Callable[[], None] | None = None,
    ) -> bytes:
        """Send and return the body of a 2xx answer.

        `timeout_s` bounds everything: waiting for a connection, retries, the answer. `token` replaces our own
        credentials for this call (the API face forwards its caller's). Repeated are answers that say nothing was
        done (429, 503) and, for methods where twice is as good as once, broken connections. `urgent` does not wait for
        one of the bounded connections to become free.
        """
        payload = None if body is None else body if isinstance(body, bytes) else _encode(body)
        call = Call(
            method,
            self._target(path, query),
            f"{method} {path}",
            payload,
            content_type,
            token,
            retry,
            urgent,
            before_send,
        )
        deadline_s = timeout_s or self.timeout_s
        try:
            async with asyncio.timeout(deadline_s):
                return await self._attempts(call)
        except TimeoutError as error:
            raise Timeout(0, "Timeout", f"no complete answer within {deadline_s:g} s", what=call.what) from error

    async def _attempts(self, call: Call) -> bytes:
        repeatable = call.method != "POST" and call.content_type != JSON_PATCH
        tried_new_credentials = False
        for attempt in range(_RETRIES + 1):
            started_s = time.perf_counter()
            code = "<error>"
            sent = False
            failure: KubeError
            try:
                async with self._pool.checkout(urgent=call.urgent) as connection:
                    message = await self._head(call)
                    if call.before_send is not None:
                        call.before_send()
                    sent = True
                    response = await connection.exchange(message)
                code = str(response.status)
                if response.status < 300:
                    return response.body
                failure = _failure(response, call.what)
            except Unreachable as error:
                error.what = call.what
                failure = error
            finally:
                self._observe(call.method, code, started_s)
            if isinstance(failure, Unauthorized) and call.token is None and not tried_new_credentials:
                tried_new_credentials = True
                if await self.access.rejected():
                    continue
            undone = failure.status in _SHED_STATUSES or (failure.status == 0 and (repeatable or not sent))
            if not call.retry or attempt == _RETRIES or not undone:
                raise failure
            await asyncio.sleep(_pause_s(attempt, failure.retry_after_s))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _head(self, call: Call) -> bytes:
        if call.token is not None:
            authorization: str | None = f"Bearer {call.token}"
        else:
            authorization = await self.access.authorization()
        lines = [call.method, " ", call.target, self._fixed_headers]
        if authorization:
            if "\r" in authorization or "\n" in authorization:
                raise Unauthorized(0, "Unauthorized", "the bearer token contains a line break")
            lines += ["Authorization: ", authorization, "\r\n"]
        payload = call.payload
        if payload is None:
            lines.append("\r\n" if call.method in ("GET", "DELETE") else "Content-Length: 0\r\n\r\n")
            return "".join(lines).encode("latin-1", "replace")
        lines += ["Content-Type: ", call.content_type, "\r\nContent-Length: ", str(len(payload)), "\r\n\r\n"]
        return "".join(lines).encode("latin-1", "replace") + payload

    def _target(self, path: str, query: Query | None) -> str:
        if not path.isprintable() or " " in path:
            raise ValueError(f"path {path!r} contains characters that end a request line; quote them")
        if not query:
            return self.access.base_path + path
        pairs = {
            key: ("true" if value else "false") if isinstance(value, bool) else str(value)
            for key, value in query.items()
            if value is not None
        }
        if not pairs:
            return self.access.base_path + path
        plain = all(map(_PLAIN_VALUE.fullmatch, pairs.values()))
        encoded = "&".join([f"{key}={value}" for key, value in pairs.items()]) if plain else urlencode(pairs)
        return f"{self.access.base_path}{path}?{encoded}"

    def _observe(self, method: str, code: str, started_s: float) -> None:
        if self.observer is not None:
            self.observer(method, self.access.host_header, code, time.perf_counter() - started_s)


def _failure(response: Response, what: str) -> KubeError:
    return error_from(response.status, response.body, retry_after_s=response.retry_after_s, what=what)


def _pause_s(attempt: int, retry_after_s: float | None) -> float:
    if retry_after_s is not None:
        # Jitter upwards only: the server asked for at least this long.
        return min(retry_after_s, _RETRY_AFTER_CAP_S) * random.uniform(1.0, 1.2)
    return _RETRY_BASE_S * float(2**attempt) * random.uniform(0.5, 1.0)
