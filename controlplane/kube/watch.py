"""A watch's byte stream as lines: one JSON event each, of any length up to a cap."""

from __future__ import annotations

import asyncio

from controlplane.kube.connection import HttpConnection
from controlplane.kube.errors import ResponseTooLarge, Timeout


class LineSplitter:
    """Cuts pieces of a stream at newlines; what is left over waits for the next piece.

    The remainder is kept as a list of pieces: a 1.5 MiB line in 16 KiB pieces is joined once, not a hundred times.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    def feed(self, pieces: list[bytes]) -> list[bytes]:
        """The lines completed by `pieces`; a newline may remain at a line's end. Raises ResponseTooLarge."""
        out: list[bytes] = []
        for piece in pieces:
            # The API server sends each event as one HTTP chunk, so most pieces are exactly one line: not copied.
            if not self._rest and piece.find(b"\n") == len(piece) - 1 and len(piece) <= self._max_line_bytes:
                if len(piece) > 1:
                    out.append(piece)
                continue
            lines = piece.split(b"\n")
            last = lines.pop()
            if lines:
                if self._rest:
                    self._rest.append(lines[0])
                    lines[0] = b"".join(self._rest)
                    self._rest.clear()
                    self._rest_bytes = 0
                if len(lines[0]) > self._max_line_bytes:
                    raise self._too_long()
                out += filter(None, lines)
            if last:
                self._rest.append(last)
                self._rest_bytes += len(last)
                if self._rest_bytes > self._max_line_bytes:
                    raise self._too_long()
        return out

    def _too_long(self) -> ResponseTooLarge:
        return ResponseTooLarge(200, "ResponseTooLarge", f"one event of the watch exceeds {self._max_line_bytes} bytes")


class WatchStream:
    """Batches of event lines as they arrive. Ends quietly, whether the server closed properly or was cut off:
    both mean "resume from the last resourceVersion", and `cut` tells them apart for those who count."""

    def __init__(self, connection: HttpConnection, max_line_bytes: int) -> None:
        self._connection = connection
        self._splitter = LineSplitter(max_line_bytes)

    @property
    def cut(self) -> bool:
        return not self._connection.complete

    def hold(self) -> None:
        """Leave what comes in the socket until `release`."""
        self._connection.hold()

    def release(self) -> None:
        """Read on."""
        self._connection.release()

    async def next_batch(self, inactivity_timeout_s: float | None = None) -> list[bytes] | None:
        """At least one line, or None at the end. Raises Timeout after that long without a byte."""
        while True:
            try:
                async with asyncio.timeout(inactivity_timeout_s):
                    pieces = await self._connection.read_pieces()
            except TimeoutError as error:
                raise Timeout(0, "Timeout", f"the watch was silent for {inactivity_timeout_s:g} s") from error
            if pieces is None:
                return None
            lines = self._splitter.feed(pieces)
            if lines:
                return lines
