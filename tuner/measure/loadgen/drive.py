"""Sends the requests of a job: open loop at their intended times whatever the engine does, or closed loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from tuner.measure.loadgen.answer import parse
from tuner.measure.loadgen.early import Early
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
    """One run of one job in one event loop. `early`: hears of the requests that are to be told of before the end."""

    def __init__(self, job: LoadJob, early: Callable[[list[Early]], None] | None = None) -> None:
        self._job = job
        self._early = early
        self._looked = job.looked if early is not None else frozenset[int]()
        self._told: list[Early] = []
        self._enough = False
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

    def enough(self) -> None:
        """Send no more; what is under way is answered."""
        self._enough = True

    async def _open(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        watch = asyncio.create_task(self._watch()) if self._job.saturation is not None else None
        for index, (at_s, _, _) in enumerate(self._job.requests):
            request = self._request(index)
            wait_s = self._start_s + at_s - time.monotonic()
            if wait_s > 0 or index % 16 == 0:  # answers are read between late sends, too
                await asyncio.sleep(max(0.0, wait_s))
            if self._stopped or self._enough:
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
            if self._enough:
                return
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
        begun_s = time.monotonic()
        try:
            connection = await self._connection()
            used_s = time.monotonic() - begun_s
            await connection.ask(request, self._job.timeout_s, sent, used_s=used_s)
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
        self._tell_early(index, intended_s, first_s, error, pieces)
        row = (index, intended_s, sent[0] if sent else None, error, pieces)
        self._unparsed_bytes += sum(len(data) for _, data in pieces)
        if self._unparsed_bytes > _UNPARSED_BYTES:
            self._keep(*row)
        else:
            self._unparsed.append(row)

    def _tell_early(self, index: int, intended_s: float, first_s: float | None, error: str, pieces: Pieces) -> None:
        """Moments alone: to parse answers now would delay others."""
        number = self._number(index)
        if self._early is None or number not in self._looked:
            return
        last_s = next((at_s for at_s, data in reversed(pieces) if _TOKENS in data), None)
        moments = (intended_s - self._start_s, self._from_start(first_s), self._from_start(last_s))
        self._told.append(Early(number, *moments, failed=bool(error) or first_s is None))
        if len(self._told) == len(self._looked):
            self._early(self._told)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            self._everyone.discard(connection)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._job.timeout_s):
                _, connection = await loop.create_connection(Connection, self._job.host, self._job.port)
        except TimeoutError as error:
            raise Failed(f"no connection within {self._job.timeout_s:g} s") from error
        self._everyone.add(connection)
        return connection

    def _keep(self, index: int, intended_s: float, sent_s: float | None, error: str, pieces: Pieces) -> None:
        answer = parse(pieces)
        _, prompt_tokens, want = self._job.requests[index]
        error = error or answer.error
        if not error and answer.tokens != want:
            error = f"{answer.tokens} of {want} tokens"
        self._samples[index] = Sample(
            number=self._number(index),
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
            warm_up=self._number(index) < self._job.warm_up,
        )

    def _number(self, index: int) -> int:
        return self._job.numbers[index] if self._job.numbers else index

    def _from_start(self, moment_s: float | None) -> float | None:
        return None if moment_s is None else moment_s - self._start_s
