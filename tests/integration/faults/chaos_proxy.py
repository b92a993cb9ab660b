"""A proxy in front of the API server that misbehaves as told: the network and the overloaded server of our tests.

Requests arrive without TLS and leave with the administrator's token. A judge says for each what becomes of it; the
request and its answer can be lost separately, as only a caller that copes with both is safe.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from yarl import URL

from tests.integration.faults.rest import Rest

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "authorization"})
_CHUNK_BYTES = 65_536


@dataclass(frozen=True)
class Fate:
    """What becomes of a request: waits, is refused or lost before it takes effect; or its answer is replaced or lost.

    `then` runs after the effect, before the answer. `cut_after_s` ends a watch in the middle.
    """

    delay_s: float = 0.0
    refuse: int | None = None
    lose_request: bool = False
    then: Callable[[], None] | None = None
    answer: int | None = None
    lose_answer: bool = False
    cut_after_s: float | None = None


FINE = Fate()
Judge = Callable[[str, str], Fate]
"""Method and path with query -> fate. Called in the proxy's thread."""


class ChaosProxy:
    """`with ChaosProxy(rest, judge) as proxy`: listens on `proxy.url`."""

    def __init__(self, rest: Rest, judge: Judge) -> None:
        self.judge = judge
        self.requests = 0
        self.faults = 0
        self.url = ""
        self._rest = rest
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._session: aiohttp.ClientSession | None = None

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._rest.context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, connect=10)
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "Content-Type"),
        ) as self._session:
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._up.set()
            await self._done.wait()
            await runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # handlers whose connections we cut
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        fate = self.judge(request.method, request.raw_path)
        self.requests += 1
        self.faults += fate != FINE
        if fate.delay_s:
            await asyncio.sleep(fate.delay_s)
        if fate.refuse is not None:
            return _status(fate.refuse)
        if fate.lose_request:
            return _cut(request)
        if "watch=true" in request.query_string or "watch=1" in request.query_string:
            return await self._stream(request, fate)
        async with self._send(request, body) as upstream:
            content = await upstream.read()
        if fate.then is not None:
            fate.then()
        if fate.lose_answer:
            return _cut(request)
        if fate.answer is not None:
            return _status(fate.answer)
        return web.Response(status=upstream.status, headers=_kept(upstream.headers), body=content)

    async def _stream(self, request: web.BaseRequest, fate: Fate) -> web.StreamResponse:
        async with self._send(request, b"") as upstream:
            response = web.StreamResponse(status=upstream.status, headers=_kept(upstream.headers))
            try:
                async with asyncio.timeout(fate.cut_after_s):
                    await response.prepare(request)
                    async for chunk in upstream.content.iter_any():
                        await response.write(chunk)
                    await response.write_eof()
            except (TimeoutError, aiohttp.ClientError):
                return _cut(request)
            except ConnectionError:
                pass  # the client left
            return response

    def _send(self, request: web.BaseRequest, body: bytes) -> aiohttp.client._RequestContextManager:
        assert self._session is not None
        headers = _kept(request.headers) | {"Authorization": f"Bearer {self._rest.token}"}
        url = URL(self._rest.url + request.raw_path, encoded=True)
        return self._session.request(request.method, url, data=body or None, headers=headers)


def _kept(headers: object) -> dict[str, str]:
    left_out = _HOP_BY_HOP | {"content-length"}
    return {name: value for name, value in headers.items() if name.lower() not in left_out}  # type: ignore[attr-defined]


def _cut(request: web.BaseRequest) -> web.Response:
    """The peer sees a reset connection."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _status(status: int) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": "chaos", "reason": ""}
    return web.json_response(body, status=status)
