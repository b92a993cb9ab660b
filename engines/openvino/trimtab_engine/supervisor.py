"""Starts the engine process, carries messages to and from it, and starts it again when it ends unasked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from trimtab_engine import wire
from trimtab_engine.options import EngineOptions

FIRST_BACKOFF_S: Final = 0.5
LONGEST_BACKOFF_S: Final = 30.0
HEALTHY_AFTER_S: Final = 60.0
LOG_TAIL_LINES: Final = 40
_SOCKET_BUFFER_BYTES: Final = 1 << 20


class EngineFailed(Exception):
    """The engine cannot be loaded. The message has the cause and the end of its log."""


class _Link(asyncio.Protocol):
    """The parent's end of the socket pair."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._reader = wire.FrameReader()
        self.closed = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        for kind, payload in self._reader.feed(data):
            self._supervisor.received(kind, payload)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


class Supervisor:
    """One engine process at a time.

    `on_ready(facts)` is called when it is warm, `on_step` for every step, `on_lost(cause)` when it ended while it had
    been warm. `run` returns after `stop`, and raises EngineFailed when loading fails `max_load_failures` times in a
    row, or once with an ordinary error exit before it ever was ready.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        on_ready: Callable[[dict[str, Any]], None],
        on_step: Callable[[wire.Step], None],
        on_lost: Callable[[str], None],
        max_load_failures: int,
        stall_timeout_s: float,
    ) -> None:
        self._options = options
        self._on_ready = on_ready
        self._on_step = on_step
        self._on_lost = on_lost
        self._max_load_failures = max_load_failures
        self._stall_timeout_s = stall_timeout_s
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._stopping = asyncio.Event()
        self._tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        self._last_message_s = 0.0
        self._ready_s: float | None = None
        self._stalled = False
        self.restarts = 0
        self.awaiting_step: Callable[[], bool] = lambda: False

    @property
    def ready(self) -> bool:
        """Whether requests can be sent."""
        return self._ready_s is not None

    @property
    def pid(self) -> int | None:
        """The engine process, None between two of them."""
        return self._process.pid if self._process is not None else None

    def send(self, data: bytes) -> None:
        """Queue a frame; dropped when there is no process (its requests have been failed by then)."""
        if self._transport is not None:
            self._transport.write(data)

    def work_begins(self) -> None:
        """The engine was idle and gets a request: its silence counts from now."""
        self._last_message_s = self._loop.time()

    def received(self, kind: int, payload: bytes) -> None:
        """A frame from the engine."""
        self._last_message_s = self._loop.time()
        if kind == wire.STEP:
            self._on_step(wire.decode_step(payload))
        elif kind == wire.READY:
            self._ready_s = self._loop.time()
            self._on_ready(json.loads(payload))

    def stop(self) -> None:
        """Ask `run` to end the process and return."""
        self._stopping.set()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    async def run(self) -> None:
        """Keep an engine process running until `stop`."""
        load_failures = 0
        backoff_s = FIRST_BACKOFF_S
        ever_ready = False
        while not self._stopping.is_set():
            returncode = await self._run_once()
            was_ready_s, self._ready_s = self._ready_s, None
            if self._stopping.is_set():
                return
            cause = "stopped answering" if self._stalled else describe_exit(returncode)
            if was_ready_s is not None:
                ever_ready = True
                load_failures = 0
                if self._loop.time() - was_ready_s > HEALTHY_AFTER_S:
                    backoff_s = FIRST_BACKOFF_S
                self._on_lost(cause)
            else:
                load_failures += 1
                if load_failures >= self._max_load_failures or (returncode > 0 and not ever_ready):
                    raise EngineFailed(self._explain(cause, load_failures))
            self.restarts += 1
            news = "; ".join([f"engine process {cause}", *self._hints(cause)])
            sys.stderr.write(f"{news}; starting it again in {backoff_s:g} s\n")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff_s)
            backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)

    async def _run_once(self) -> int:
        self._stalled = False
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220 - fork and exec of a small parent; milliseconds
                [
                    sys.executable,
                    "-m",
                    "trimtab_engine.child",
                    str(theirs.fileno()),
                    str(os.getpid()),
                    self._options.to_json(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )
        self._process = process
        self._last_message_s = self._loop.time()
        transport, link = await self._loop.create_connection(lambda: _Link(self), sock=ours)
        self._transport = transport
        log = self._loop.create_task(self._copy_log(process))
        stopper = self._loop.create_task(self._stopping.wait())
        watcher = self._loop.create_task(self._watch(process))
        try:
            await asyncio.wait({link.closed, stopper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopper.cancel()
            watcher.cancel()
            self._transport = None
            transport.abort()
        returncode = await self._reap(process)
        await log
        self._process = None
        return returncode

    async def _reap(self, process: subprocess.Popen[bytes]) -> int:
        """The exit status; a process that does not end by itself within a second is killed."""
        for _ in range(100):
            if process.poll() is not None:
                break
            if self._stopping.is_set():
                process.kill()
            await asyncio.sleep(0.01)
        else:
            process.kill()
        return await self._loop.run_in_executor(None, process.wait)

    async def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Kill an engine that has work and says nothing."""
        while True:
            await asyncio.sleep(min(1.0, self._stall_timeout_s / 4))
            silent_s = self._loop.time() - self._last_message_s
            if self.ready and self.awaiting_step() and silent_s > self._stall_timeout_s:
                self._stalled = True
                process.kill()
                return

    async def _copy_log(self, process: subprocess.Popen[bytes]) -> None:
        reader = asyncio.StreamReader(limit=1 << 16)
        await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # a line over the limit: its start has been dropped by the reader
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            sys.stderr.write(f"engine: {text}\n")

    def _explain(self, cause: str, failures: int) -> str:
        lines = [f"the engine process {cause} while loading ({failures} in a row)", *self._hints(cause)]
        lines.append("the end of its log:")
        return "\n".join([*lines, *(f"  {line}" for line in self._tail)])

    def _hints(self, cause: str) -> list[str]:
        """What is known about such an end."""
        if self._options.inference_precision != "bf16":
            return []
        if "SIGILL" in cause:
            return ["this CPU announces AMX but traps on it (seen on virtual machines); use --inference-precision f32"]
        if "SIGFPE" in cause:
            return ["known with 16-bit weights, bf16 and one thread: use f32, two threads, or a Q8_0 model"]
        return []


def describe_exit(returncode: int) -> str:
    """`ended with status 1`, `was killed by SIGSEGV`."""
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"was killed by {name}"
