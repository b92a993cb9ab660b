"""One connection: writes a request, keeps what comes back with the moment it came. Nothing is parsed before the stamp
but the length of the answer."""

from __future__ import annotations

import asyncio
import time

_END = b"\r\n0\r\n\r\n"  # the chunk that ends a chunked answer
_MOST_BYTES = 64 << 20  # of one answer
_MOST_HEAD_BYTES = 64 << 10  # as servers allow of a request's
# Each piece is kept with its moment, about 150 bytes: more than a token each of any answer that is asked for.
_MOST_PIECES = 1 << 19

Pieces = list[tuple[float, bytes]]


class Failed(Exception):
    """The request has no complete answer. The message says why, in a word or two."""


class Connection(asyncio.Protocol):
    """Keep-alive; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._forget()
        self.reusable = True

    def _forget(self) -> None:
        self.pieces: Pieces = []
        self._tail = b""
        self._left: int | None = None  # bytes to come, None while unknown or chunked
        self._head = True
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self.fail("the server closed the connection")

    def data_received(self, data: bytes) -> None:
        now_s = time.monotonic()
        if self._done is None or self._done.done():
            self.reusable = False
            return
        self.pieces.append((now_s, data))
        self._size += len(data)
        if self._size > _MOST_BYTES:
            self.fail(f"the answer is longer than {_MOST_BYTES >> 20} MiB")
        elif len(self.pieces) > _MOST_PIECES:
            self.fail(f"the answer came in more than {_MOST_PIECES} pieces")
        elif self._head:
            self._tail += data
            self._read_head()
        elif self._left is not None:
            self._left -= len(data)
            self._end_if(self._left <= 0)
        else:
            self._tail = self._tail[-6:] + data if len(data) < 7 else data
            self._end_if(self._tail.endswith(_END))

    def _read_head(self) -> None:
        head, found, body = self._tail.partition(b"\r\n\r\n")
        if not found:
            if len(self._tail) > _MOST_HEAD_BYTES:
                self.fail(f"the answer's head is longer than {_MOST_HEAD_BYTES >> 10} KiB")
            return
        self._head = False
        fields = head.lower().split(b"\r\n")[1:]
        if b"connection: close" in fields:
            self.reusable = False
        if any(line.startswith(b"transfer-encoding:") and b"chunked" in line for line in fields):
            self._tail = b"\r\n" + body
            self._end_if(self._tail.endswith(_END))
            return
        lengths = [line.partition(b":")[2].strip() for line in fields if line.startswith(b"content-length:")]
        if len(lengths) != 1 or not lengths[0].isdigit():
            self.fail("neither a length nor chunks")
            return
        self._left = int(lengths[0]) - len(body)
        self._end_if(self._left <= 0)

    def _end_if(self, ended: bool) -> None:
        if ended and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def fail(self, why: str) -> None:
        """End the request under way without its answer."""
        if self._done is not None and not self._done.done():
            self.reusable = False
            self._done.set_exception(Failed(why))

    async def ask(self, request: bytes, timeout_s: float, sent: list[float], *, used_s: float = 0.0) -> None:
        """Send and wait for the whole answer, which lies in `pieces`. `used_s`: of the request's time, by the making of
        the connection. `sent` gets the moment of the write. Raises Failed; `pieces` then holds what came until then."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._forget()
        self._done = loop.create_future()
        timer = loop.call_later(timeout_s - used_s, self.fail, f"no complete answer within {timeout_s:g} s")
        if self._transport.is_closing():
            self.fail("the server closed the connection")
        sent.append(time.monotonic())
        self._transport.write(request)
        try:
            await self._done
        finally:
            timer.cancel()

    def close(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()
