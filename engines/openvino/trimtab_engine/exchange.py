"""One HTTP exchange: the request as parsed, the response as written, and the bounds on both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol

PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on what a client may send or take."""

    max_head_bytes: int = 32 << 10
    max_headers: int = 100
    max_body_bytes: int = 4 << 20
    max_connections: int = 4096
    max_unsent_bytes: int = 8 << 20
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    write_stall_timeout_s: float = 60.0


@dataclass(slots=True)
class Request:
    """One parsed request. Header names are lower case; a repeated header is joined with a comma."""

    method: str = ""
    target: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = False
    chunked_allowed: bool = True
    received_s: float = 0.0

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.split(b"?", 1)[0].decode("latin-1")


class Channel(Protocol):
    """Where a response goes: the connection it answers on."""

    @property
    def last_response(self) -> bool:
        """Whether the connection closes after this response whatever the client wants."""

    def write(self, data: bytes) -> None:
        """Queue bytes."""

    def response_done(self, close: bool) -> None:
        """The response is complete."""


class Responder:
    """Writes one response. Every method is harmless once the client has gone."""

    __slots__ = ("_chunked", "_connection", "_done", "_request", "on_disconnect", "streaming")

    def __init__(self, connection: Channel, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._chunked = False
        self._done = False
        self.streaming = False
        self.on_disconnect: Callable[[], None] | None = None

    def send(self, status: int, body: bytes, content_type: bytes = b"application/json", extra: bytes = b"") -> None:
        """The whole response at once. `extra` is complete header lines."""
        if self._done:
            return
        close = self._closing()
        head = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s%s\r\n" % (
            status,
            PHRASES[status].encode(),
            content_type,
            len(body),
            extra,
            b"connection: close\r\n" if close else b"",
        )
        self._connection.write(head if self._request.method == "HEAD" else head + body)
        self._finish(close)

    def stream(self, first: bytes) -> None:
        """Begin a server-sent event stream with its first bytes."""
        if self._done:
            return
        self.streaming = True
        self._chunked = self._request.chunked_allowed
        if not self._chunked:
            self._request.keep_alive = False
        head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
            + (b"transfer-encoding: chunked\r\n" if self._chunked else b"")
            + (b"connection: close\r\n" if self._closing() else b"")
            + b"\r\n"
        )
        self._connection.write(head + self._framed(first))

    def write(self, data: bytes) -> None:
        """More of the stream."""
        if not self._done:
            self._connection.write(self._framed(data))

    def end(self, data: bytes = b"") -> None:
        """The last of the stream."""
        if self._done:
            return
        tail = self._framed(data) if data else b""
        self._connection.write(tail + b"0\r\n\r\n" if self._chunked else tail)
        self._finish(self._closing())

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    def _closing(self) -> bool:
        return not self._request.keep_alive or self._connection.last_response

    def _finish(self, close: bool) -> None:
        self._done = True
        self.on_disconnect = None
        self._connection.response_done(close)

    def disconnected(self) -> None:
        """The connection has gone."""
        self._done = True
        callback, self.on_disconnect = self.on_disconnect, None
        if callback is not None:
            callback()
