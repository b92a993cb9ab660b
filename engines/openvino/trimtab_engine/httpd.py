"""A small HTTP/1.1 server: one asyncio protocol over httptools, with every size and wait bounded.

It knows nothing of models. A handler gets a parsed Request and a Responder; it may answer at once or keep the
responder and write to it later, step by step.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import httptools

from trimtab_engine.errors import ApiError
from trimtab_engine.exchange import HttpLimits, Request, Responder

_MAX_PIPELINED: Final = 16
_WRITE_HIGH_BYTES: Final = 1 << 20


Handler = Callable[[Request, Responder], None]


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.deadline_s: float | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0  # received since the head began, complete or not
        self._field_bytes = 0  # of complete fields, exact
        self._headers = 0
        self._reading_head = True
        self._mid_request = False
        self._queue: deque[Request] = deque()
        self._active: Responder | None = None
        self._raw_left = 0  # bytes still to come of a body that the parser leaves to "the other protocol"
        self._deaf = False  # nothing more is read from this client

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept, or refuse when there are too many."""
        transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the base class
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        self.deadline_s = self.server.now() + self.server.limits.head_timeout_s
        self.server.connections.add(self)
        if len(self.server.connections) > self.server.limits.max_connections:
            limit = self.server.limits.max_connections
            self._refuse(ApiError(503, f"{limit} connections are open, the limit; retry later", "too_many_connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler that nobody listens any more."""
        self.server.connections.discard(self)
        self.deadline_s = None
        self._transport = None
        self._queue.clear()
        active, self._active = self._active, None
        if active is not None:
            active.disconnected()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, counting header bytes."""
        if self._raw_left:
            self._raw_body(data)
            return
        if self._deaf:
            return
        if not self._mid_request:
            self._mid_request = True
            self._head_bytes = 0
            if self._active is None:
                self.deadline_s = self.server.now() + self.server.limits.head_timeout_s
        if self._reading_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._deaf = True  # the request itself is answered in HTTP/1.1; the parser cannot go on after it
            if self._raw_left:
                self._raw_body(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, ApiError) else ApiError(400, str(error), "bad_http"))
        except httptools.HttpParserError as error:
            self._refuse(ApiError(400, f"not a valid HTTP/1.1 request: {error}", "bad_http"))
        else:
            if self._reading_head and self._mid_request:
                self._check_head()

    def eof_received(self) -> bool:
        """A client that closes its side has gone."""
        return False

    def pause_writing(self) -> None:
        """The client reads too slowly: give it the stall timeout."""
        self.deadline_s = self.server.now() + self.server.limits.write_stall_timeout_s

    def resume_writing(self) -> None:
        """It has caught up."""
        self.deadline_s = None if self._active is not None else self.server.now() + self.server.limits.idle_timeout_s

    # the parser's side

    def on_message_begin(self) -> None:
        """A new request begins."""
        self._request = Request()
        self._body = []
        self._body_bytes = 0
        self._field_bytes = 0
        self._headers = 0
        self._reading_head = True
        self._mid_request = True

    def on_url(self, url: bytes) -> None:
        """Part of the target."""
        self._request.target += url
        self._count_field(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        self._headers += 1
        if self._headers > self.server.limits.max_headers:
            limit = self.server.limits.max_headers
            raise ApiError(431, f"more than {limit} header lines, the limit", "headers_too_large")
        self._count_field(len(name) + len(value) + 4)
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        headers = self._request.headers
        headers[key] = f"{headers[key]},{text}" if key in headers else text

    def on_headers_complete(self) -> None:
        """Check the announced size before any of the body is taken."""
        request = self._request
        request.method = self._parser.get_method().decode("latin-1")
        request.keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        request.chunked_allowed = self._parser.get_http_version() != "1.0"
        self._reading_head = False
        limit = self.server.limits.max_body_bytes
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(int(announced), limit)
        if self._parser.should_upgrade():  # an offer, which may be ignored; the parser takes it for granted
            if "transfer-encoding" in request.headers:
                raise ApiError(400, "a chunked body with a protocol upgrade is not supported", "bad_http")
            self._raw_left = int(announced)
        if self._active is None:
            self.deadline_s = self.server.now() + self.server.limits.body_timeout_s
            if request.headers.get("expect", "").lower() == "100-continue":
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > self.server.limits.max_body_bytes:
            raise _too_large(self._body_bytes, self.server.limits.max_body_bytes)
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the request over, or queue it behind the one being answered."""
        if self._raw_left:
            return
        request = self._request
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._reading_head = True
        self._mid_request = False
        self._head_bytes = 0
        if self._active is None:
            self._dispatch(request)
        elif len(self._queue) < _MAX_PIPELINED:
            self._queue.append(request)
        else:
            raise ApiError(400, f"more than {_MAX_PIPELINED} pipelined requests", "bad_http")

    def _raw_body(self, data: bytes) -> None:
        taken = data[: self._raw_left]
        self._raw_left -= len(taken)
        self._body.append(taken)
        if not self._raw_left:
            self.on_message_complete()

    # the responder's side

    def write(self, data: bytes) -> None:
        """Queue bytes; a client that does not take them in reasonable amounts is cut off."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(data)
        if transport.get_write_buffer_size() > self.server.limits.max_unsent_bytes:
            transport.abort()

    @property
    def last_response(self) -> bool:
        """The server is on its way out."""
        return self.server.closing_connections

    def response_done(self, close: bool) -> None:
        """The active response is complete; go on with the next request or wait for one."""
        self._active = None
        if close:
            self._queue.clear()
            self.close()
        elif self._queue:
            self._dispatch(self._queue.popleft())
        else:
            self.deadline_s = self.server.now() + self.server.limits.idle_timeout_s

    def close(self) -> None:
        """Close after what was written has gone out."""
        if self._transport is not None:
            self.deadline_s = self.server.now() + self.server.limits.write_stall_timeout_s
            self._transport.close()

    def expire(self) -> None:
        """The deadline has passed."""
        if self._transport is None:
            return
        if self._active is None and self._mid_request and not self._deaf:
            self._refuse(ApiError(408, "the request did not arrive in time", "request_timeout"))
        elif self._active is None and not self._transport.is_closing():
            self.close()
        else:
            self._transport.abort()

    def _dispatch(self, request: Request) -> None:
        self.deadline_s = None
        request.received_s = self.server.now()
        responder = Responder(self, request)
        self._active = responder
        self.server.handler(request, responder)

    def _check_head(self) -> None:
        if self._head_bytes > self.server.limits.max_head_bytes:
            self._refuse(self._head_too_large())

    def _count_field(self, size: int) -> None:
        self._field_bytes += size
        if self._field_bytes > self.server.limits.max_head_bytes:
            raise self._head_too_large()

    def _head_too_large(self) -> ApiError:
        limit = self.server.limits.max_head_bytes
        return ApiError(431, f"request line and headers are over {limit} bytes, the limit", "headers_too_large")

    def _refuse(self, error: ApiError) -> None:
        """Answer a request that could not be read, then close: the rest of the byte stream has no meaning."""
        self._deaf = True
        self._queue.clear()
        if self._active is not None:  # a response is under way: it cannot be followed by an orderly error
            if self._transport is not None:
                self._transport.abort()
            return
        self.server.refused(error)
        self._request.keep_alive = False
        self._active = Responder(self, self._request)
        self._active.send(error.status, self.server.error_body(error))


def _too_large(size: int, limit: int) -> ApiError:
    return ApiError(413, f"body: {size} bytes; the limit is {limit} (--max-body-bytes)", "body_too_large")


class HttpServer:
    """The connections and what they share. `closing_connections` ends every connection after its next response."""

    def __init__(
        self,
        handler: Handler,
        limits: HttpLimits,
        error_body: Callable[[ApiError], bytes],
        refused: Callable[[ApiError], None],
    ) -> None:
        self.handler = handler
        self.limits = limits
        self.error_body = error_body
        self.refused = refused
        self.connections: set[Connection] = set()
        self.closing_connections = False
        self._loop = asyncio.get_running_loop()
        self.now = time.monotonic  # uvloop caches its own clock per iteration, at 1 ms
        self._sweeper: asyncio.TimerHandle | None = None
        self._listener: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Accept connections and return the port. Raises OSError when it cannot."""
        self._listener = await self._loop.create_server(lambda: Connection(self), host, port, backlog=1024)
        self._sweep()
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    def stop(self) -> None:
        """Stop accepting and close every connection once its unsent bytes are out."""
        if self._listener is not None:
            self._listener.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.connections):
            connection.close()

    def _sweep(self) -> None:
        now = self.now()
        for connection in [c for c in self.connections if c.deadline_s is not None and c.deadline_s < now]:
            connection.expire()
        self._sweeper = self._loop.call_later(0.5, self._sweep)
