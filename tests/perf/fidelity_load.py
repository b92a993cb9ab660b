"""The load of `bench_engine_fidelity`: one asyncio process that notes when every token of every answer arrives.

Raw HTTP and no JSON per token, because the client shares the cores of the engine it measures.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.serving.calibration.host_streams import Stream

_TOKEN = b'"choices": [{'
_END = b"\r\n0\r\n\r\n"  # the chunk that ends a response
_ANSWER_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Asked:
    """`arrival_s`: when it is sent, from the start; None in a closed loop."""

    prompt: tuple[int, ...]
    output_tokens: int
    arrival_s: float | None = None


class _Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._token_s: list[float] = []
        self._tail = b""
        self._head = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        if self._done is None or self._done.done():
            return
        if self._head:
            self._head = False
            if not data.startswith(b"HTTP/1.1 200"):
                self._done.set_exception(RuntimeError(data[:300].decode("utf-8", "replace")))
                return
        joined = self._tail + data
        self._token_s.extend([now_s] * (joined.count(_TOKEN) - self._tail.count(_TOKEN)))
        if joined.endswith(_END):
            self._done.set_result(None)
        self._tail = joined[-max(len(_END), len(_TOKEN)) + 1 :]

    async def ask(self, request: bytes) -> tuple[float, list[float]]:
        """When it was sent, and when each token came."""
        assert self.transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._token_s, self._tail, self._head = [], b"", True
        sent_s = time.perf_counter()
        self.transport.write(request)
        async with asyncio.timeout(_ANSWER_LIMIT_S):
            await self._done
        return sent_s, self._token_s


def _bytes_of(asked: Asked) -> bytes:
    body = json.dumps(
        {
            "prompt": asked.prompt,
            "max_tokens": asked.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    return b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def _connect(port: int) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port)
    return connection


async def drive(port: int, asked: Sequence[Asked], clients: int | None) -> list[Stream]:
    """All of them, by `clients` that always have one open or, without, at their times. Raises when an answer fails or
    has another length than asked for. Times are from the start; a late send does not move an arrival."""
    requests = [_bytes_of(one) for one in asked]
    answers: dict[int, tuple[float, list[float]]] = {}
    idle = [await _connect(port) for _ in range(clients or 1)]
    everyone = list(idle)
    start_s = time.perf_counter()

    async def client(connection: _Connection, numbers: list[int]) -> None:
        while numbers:
            number = numbers.pop()
            answers[number] = await connection.ask(requests[number])

    async def single(number: int) -> None:
        if idle:
            connection = idle.pop()
        else:
            connection = await _connect(port)
            everyone.append(connection)
        answers[number] = await connection.ask(requests[number])
        idle.append(connection)

    try:
        async with asyncio.TaskGroup() as group:
            if clients is not None:
                numbers = list(range(len(asked)))[::-1]
                for connection in everyone[:clients]:
                    group.create_task(client(connection, numbers))
            else:
                for number, one in enumerate(asked):
                    await asyncio.sleep(max(0.0, start_s + (one.arrival_s or 0.0) - time.perf_counter()))
                    group.create_task(single(number))
    finally:
        for connection in everyone:
            if connection.transport is not None:
                connection.transport.abort()
    streams = []
    for number, one in enumerate(asked):
        sent_s, token_s = answers[number]
        if len(token_s) != one.output_tokens:
            raise RuntimeError(f"request {number}: {len(token_s)} tokens, asked for {one.output_tokens}")
        issued_s = sent_s - start_s if one.arrival_s is None else one.arrival_s
        streams.append(Stream(issued_s, len(one.prompt), tuple(moment_s - start_s for moment_s in token_s)))
    return streams
