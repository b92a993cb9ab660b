"""Sends the requests of a job: open loop at their intended times whatever the engine does, or closed loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from tuner.measure.loadgen.answer import parse
from tuner.measure.loadgen.job import LoadJob, LoadResult, Sample
from tuner.measure.loadgen.prompts import request_bytes
from tuner.measure.loadgen.saturation import saturated
from tuner.measure.loadgen.wire import Connection, Failed, Pieces

# Requests are written before the start up to this many bytes, later ones while waiting for their time.
_READY_BYTES = 256 << 20
# Answers are parsed after the run; where they grow beyond this, each at its end.
_UNPARSED_BYTES = 64 << 20
_LOOK_EVERY_S = 1.0
_TOKENS = b'"choices"'  # an event with tokens, near enough for the rule of saturation


class Driver:
    """One run of one job in one event loop."""

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._idle: list[Connection] = []
        self._everyone: set[Connection] = set()
        self._samples: dict[int, Sample] = {}
        self._unparsed: list[tuple[int, float, float | None, str, Pieces]] = []
        self._unparsed_bytes = 0
        self._stopped = False
        self._start_s = 0.0
        self._under_way = 0
        self._ways: list[tuple[float, float]] = []
        self._firsts: list[tuple[float, float]] = []
        self._ready: list[bytes] = []
        size = 0
        for index in range(len(job.requests)):
            self._ready.append(request_bytes(job, index))
            size += len(self._ready[-1])
            if size > _READY_BYTES:
                break

    async def run(self, start_s: float) -> LoadResult:
        """`start_s`: when it begins, on the monotonic clock."""
        await asyncio.sleep(max(0.0, start_s - time.monotonic()))
        self._start_s = start_s
        cpu_s = time.process_time()
        try:
            await (self._open() if self._job.clients is None else self._closed(self._job.clients))
            cpu_s = time.process_time() - cpu_s
        finally:
            for connection in list(self._everyone):
                connection.close()
        parsing_s = time.process_time()
        for row in self._unparsed:
            self._keep(*row)
        cpu_s += time.process_time() - parsing_s
        samples = tuple(self._samples[index] for index in sorted(self._samples))
        return LoadResult(samples, cpu_s, saturated=self._stopped)

    async def _open(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        watch = asyncio.create_task(self._watch()) if self._job.saturation is not None else None
        for index, (at_s, _, _) in enumerate(self._job.requests):
            request = self._request(index)
            wait_s = self._start_s + at_s - time.monotonic()
            if wait_s > 0 or index % 16 == 0:  # answers are read between late sends, too
                await asyncio.sleep(max(0.0, wait_s))
            if self._stopped:
                break
            task = asyncio.create_task(self._one(index, self._start_s + at_s, request))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(set(tasks))
        if watch is not None:
            watch.cancel()

    async def _closed(self, clients: int) -> None:
        indices = iter(range(len(self._job.requests)))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(clients, len(self._job.requests))):
                group.create_task(self._client(indices))

    async def _client(self, indices: Iterator[int]) -> None:
        for index in indices:
            request = self._request(index)
            await self._one(index, time.monotonic(), request)

    async def _watch(self) -> None:
        """Stop sending, and end what is under way, when the engine falls behind for good."""
        rule = self._job.saturation
        assert rule is not None
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now_s = time.monotonic() - self._start_s
            self._ways.append((now_s, float(self._under_way)))
            if saturated(now_s, self._ways, self._firsts, rule):
                self._stopped = True
                for connection in list(self._everyone):
                    connection.fail("stopped: the engine falls behind")

    def _request(self, index: int) -> bytes:
        return self._ready[index] if index < len(self._ready) else request_bytes(self._job, index)

    async def _one(self, index: int, intended_s: float, request: bytes) -> None:
        sent: list[float] = []
        error = ""
        connection: Connection | None = None
        self._under_way += 1
        try:
            connection = await self._connection()
            await connection.ask(request, self._job.timeout_s, sent)
        except (Failed, OSError) as failure:
            error = str(failure) or type(failure).__name__
        self._under_way -= 1
        pieces = connection.pieces if connection is not None else []
        if connection is not None:
            if connection.reusable:
                self._idle.append(connection)
            else:
                self._everyone.discard(connection)
                connection.close()
        first_s = next((at_s for at_s, data in pieces if _TOKENS in data), None)
        if first_s is not None and self._job.saturation is not None:
            self._firsts.append((first_s - self._start_s, first_s - intended_s))
        row = (index, intended_s, sent[0] if sent else None, error, pieces)
        self._unparsed_bytes += sum(len(data) for _, data in pieces)
        if self._unparsed_bytes > _UNPARSED_BYTES:
            self._keep(*row)
        else:
            self._unparsed.append(row)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            self._everyone.discard(connection)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._job.timeout_s):
            _, connection = await loop.create_connection(Connection, self._job.host, self._job.port)
        self._everyone.add(connection)
        return connection

    def _keep(self, index: int, intended_s: float, sent_s: float | None, error: str, pieces: Pieces) -> None:
        answer = parse(pieces)
        _, prompt_tokens, want = self._job.requests[index]
        error = error or answer.error
        if not error and answer.tokens != want:
            error = f"{answer.tokens} of {want} tokens"
        self._samples[index] = Sample(
            number=self._job.numbers[index] if self._job.numbers else index,
            intended_s=intended_s - self._start_s,
            sent_s=self._from_start(sent_s),
            first_s=self._from_start(answer.first_s),
            last_s=self._from_start(answer.last_s),
            prompt_tokens=prompt_tokens,
            output_tokens=answer.tokens,
            events=answer.events,
            gap_max_s=answer.gap_max_s,
            status=answer.status,
            error=error,
            warm_up=(self._job.numbers[index] if self._job.numbers else index) < self._job.warm_up,
        )

    def _from_start(self, moment_s: float | None) -> float | None:
        return None if moment_s is None else moment_s - self._start_s
