"""Connections to one API server: kept alive, bounded in number, replaced when they break."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType

from controlplane.kube.config import ClusterAccess
from controlplane.kube.connection import HttpConnection
from controlplane.kube.errors import Unreachable

# The API server closes idle keep-alive connections after 90 s or more; ours go first, so that a request rarely
# meets a connection the server is just closing.
IDLE_CLOSE_S = 45.0


class ConnectionPool:
    """At most `max_connections` for requests; streams (watches) are counted apart and never pooled."""

    def __init__(self, access: ClusterAccess, *, max_connections: int, max_response_bytes: int) -> None:
        if max_connections < 1:
            raise ValueError(f"max_connections={max_connections}: at least 1 is needed")
        self._access = access
        self._max_response_bytes = max_response_bytes
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: list[HttpConnection] = []
        self._all: set[HttpConnection] = set()
        self._closed = False

    def checkout(self, *, urgent: bool = False) -> Checkout:
        """An async context that gives a connection, pooled again on a clean exit. It waits for a free slot first,
        unless `urgent`: for the few requests that must not queue."""
        return Checkout(self, urgent)

    async def dedicated(self) -> HttpConnection:
        """A fresh connection outside the pool; the caller closes it by `discard`."""
        return await self._connect()

    def discard(self, connection: HttpConnection) -> None:
        self._all.discard(connection)
        connection.close()

    def close(self) -> None:
        """Drop every connection, streams too; what is under way fails with Unreachable."""
        self._closed = True
        self._idle.clear()
        for connection in list(self._all):
            self.discard(connection)

    async def _acquire(self) -> HttpConnection:
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()  # the most recently used is the least likely to be stale
            if connection.reusable and now_s - connection.idle_since_s < IDLE_CLOSE_S:
                return connection
            self.discard(connection)
        return await self._connect()

    def _put_back(self, connection: HttpConnection) -> None:
        if self._closed or not connection.reusable:
            self.discard(connection)
            return
        connection.idle_since_s = asyncio.get_running_loop().time()
        self._idle.append(connection)
        oldest = self._idle[0]
        if connection.idle_since_s - oldest.idle_since_s > IDLE_CLOSE_S:
            self._idle.pop(0)
            self.discard(oldest)

    async def _connect(self) -> HttpConnection:
        if self._closed:
            raise Unreachable(0, "Unreachable", "the client is closed")
        access = self._access
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: HttpConnection(self._max_response_bytes),
                access.host,
                access.port,
                ssl=access.tls,
                server_hostname=(access.tls_server_name or access.host) if access.tls else None,
            )
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(
                0,
                "Unreachable",
                f"{access.server}: the server's certificate is not trusted ({error.verify_message})",
            ) from error
        except OSError as error:
            raise Unreachable(0, "Unreachable", f"{access.server}: {error}") from error
        self._all.add(connection)
        return connection


class Checkout:
    """See `ConnectionPool.checkout`."""

    __slots__ = ("_connection", "_pool", "_urgent")

    def __init__(self, pool: ConnectionPool, urgent: bool) -> None:
        self._pool = pool
        self._urgent = urgent
        self._connection: HttpConnection | None = None

    async def __aenter__(self) -> HttpConnection:
        if not self._urgent:
            await self._pool._slots.acquire()
        try:
            self._connection = await self._pool._acquire()
        except BaseException:
            self._free_slot()
            raise
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._connection is not None
        self._pool._put_back(self._connection)
        self._free_slot()

    def _free_slot(self) -> None:
        if not self._urgent:
            self._pool._slots.release()
