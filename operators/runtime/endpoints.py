"""/metrics, /healthz and /readyz over a few lines of HTTP: no framework in the operator's process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_HEAD_LIMIT_BYTES = 16 * 1024
_HEAD_TIMEOUT_S = 10.0
_MAX_CONNECTIONS = 64

Check = Callable[[], str | None]
"""None when all is well, else what is not."""


class Endpoints:
    """Answers GET and closes each connection; anything else is refused."""

    def __init__(self, registry: CollectorRegistry, *, healthy: Check, ready: Check) -> None:
        self._registry = registry
        self._healthy = healthy
        self._ready = ready
        self._server: asyncio.Server | None = None
        self._open = 0
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one, see `port`."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_HEAD_LIMIT_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open > _MAX_CONNECTIONS:
                return
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = self._answer(head)
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a probe that went away or talks something else is no event of ours
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, head: bytes) -> tuple[str, str, bytes]:
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        text = "text/plain; charset=utf-8"
        if method != b"GET":
            return "405 Method Not Allowed", text, b"only GET\n"
        if path == b"/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, generate_latest(self._registry)
        checks: dict[bytes, Check] = {b"/healthz": self._healthy, b"/readyz": self._ready}
        check = checks.get(path)
        if check is None:
            return "404 Not Found", text, b"there are /metrics, /healthz and /readyz\n"
        wrong = check()
        return ("200 OK", text, b"ok\n") if wrong is None else ("503 Service Unavailable", text, f"{wrong}\n".encode())
