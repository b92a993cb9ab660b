"""One HTTP/1.1 connection: send a request, collect the answer or hand it out piece by piece.

An `asyncio.Protocol` on the transport itself, with httptools as parser: about half the CPU of a general HTTP
client, and nothing that a garbage collection could close under us (the loop owns the transport, the transport
owns this object).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

import httptools

from controlplane.kube.errors import ResponseTooLarge, Unreachable

# A stream that nobody drains stops reading from the socket above this, and goes on below half of it.
STREAM_HIGH_WATER_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class Response:
    """A complete answer. `retry_after_s` is the Retry-After header when it is a number of seconds."""

    status: int
    body: bytes
    retry_after_s: float | None = None


class HttpConnection(asyncio.Protocol):
    """One request at a time. After an error the connection is closed and must not be used again."""

    def __init__(self, max_response_bytes: int) -> None:
        self._max_response_bytes = max_response_bytes
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._retry_after_s: float | None = None
        self._streaming = False
        self._paused = False
        self._held = False
        self._busy = False
        self._headers_done = False
        self._complete = False
        self._keep_alive = False
        self._error: Exception | None = None
        self.status = 0
        self.idle_since_s = 0.0

    @property
    def reusable(self) -> bool:
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and not self._busy
            and self._keep_alive
            and self._error is None
        )

    @property
    def complete(self) -> bool:
        """Whether the answer ended as HTTP says it should, not by a cut connection."""
        return self._complete

    async def exchange(self, request: bytes) -> Response:
        """Send and wait for the whole answer. Raises Unreachable or ResponseTooLarge."""
        self._begin(request, streaming=False)
        await self._can_write.wait()
        while not self._complete:
            await self._wait()
        self._busy = False
        return Response(self.status, self._take(), self._retry_after_s)

    async def open_stream(self, request: bytes) -> int:
        """Send and wait for the status line and headers of a long answer; returns the status."""
        self._begin(request, streaming=True)
        while not self._headers_done:
            await self._wait()
        return self.status

    async def read_pieces(self) -> list[bytes] | None:
        """What has arrived since the last call, as it came; None once the answer has ended or was cut."""
        while not self._chunks:
            if self._complete or self._error is not None:
                error = self._error
                if isinstance(error, ResponseTooLarge):
                    raise error
                return None
            await self._wait(raise_on_cut=False)
        pieces = self._chunks
        self._drained()
        return pieces

    def hold(self) -> None:
        """Stop reading from the socket until `release`."""
        self._held = True
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def release(self) -> None:
        """Read on, unless too much is waiting to be drained."""
        self._held = False
        if self._buffered_bytes <= STREAM_HIGH_WATER_BYTES:
            self._read_on()

    async def read_rest(self) -> bytes:
        """The remaining body of a stream that turned out to be a short answer."""
        parts: list[bytes] = []
        size = 0
        while (pieces := await self.read_pieces()) is not None:
            size += sum(map(len, pieces))
            if size > self._max_response_bytes:
                raise self._too_large()
            parts += pieces
        return b"".join(parts)

    @property
    def retry_after_s(self) -> float | None:
        return self._retry_after_s

    def close(self) -> None:
        """Drop the connection now; a request under way fails with Unreachable."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, request: bytes, *, streaming: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            raise Unreachable(0, "Unreachable", "the connection was closed")
        self._parser = httptools.HttpResponseParser(self)
        self._chunks = []
        self._buffered_bytes = 0
        self._retry_after_s = None
        self._streaming = streaming
        self._busy = True
        self._headers_done = False
        self._complete = False
        self._keep_alive = False
        self._transport.write(request)

    async def _wait(self, *, raise_on_cut: bool = True) -> None:
        if self._error is not None:
            if raise_on_cut:
                raise self._error
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None and raise_on_cut and not self._complete:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> bytes:
        chunks = self._chunks
        self._drained()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _drained(self) -> None:
        self._chunks = []
        self._buffered_bytes = 0
        if not self._held:
            self._read_on()

    def _read_on(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _too_large(self) -> ResponseTooLarge:
        return ResponseTooLarge(
            self.status,
            "ResponseTooLarge",
            f"the answer exceeds {self._max_response_bytes} bytes; ask for smaller pages (limit=)",
        )

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or not self._busy:
            # Bytes nobody asked for: the stream can no longer be matched to requests.
            self._fail(Unreachable(0, "Unreachable", "the server sent data outside an answer"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Unreachable(0, "Unreachable", f"the answer is not HTTP/1.1: {error}"))
            return
        if self._streaming and self._buffered_bytes > STREAM_HIGH_WATER_BYTES and not self._paused:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()
        if self._complete or self._streaming:
            self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._error is None:
            detail = f"{type(exc).__name__}: {exc}" if exc is not None else "closed by the server"
            self._error = Unreachable(0, "Unreachable", f"the connection broke ({detail})")
        self._can_write.set()
        self._wake()

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            try:
                self._retry_after_s = max(0.0, float(value))
            except ValueError:
                self._retry_after_s = None  # the HTTP-date form; the API server never sends it

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        self._headers_done = True

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered_bytes += len(body)
        if not self._streaming and self._buffered_bytes > self._max_response_bytes:
            self._fail(self._too_large())

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self._keep_alive = self._parser.should_keep_alive()
        self._complete = self._error is None
