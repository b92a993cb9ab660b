"""Heavy pure work outside the event loop: a worker process, started when first needed.

A planner that computes for a second in the loop stops every watch, probe and lease renewal for that second; in a
thread it would still hold the interpreter lock. Functions and arguments must be importable and picklable.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_TIMEOUT_S = 60.0


class OffloadError(Exception):
    """The worker died or took too long; the call may be made again."""


class Offload:
    """One process by default: plans of one snapshot follow each other anyway."""

    def __init__(self, workers: int = 1, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._workers = workers
        self._timeout_s = timeout_s
        self._pool: ProcessPoolExecutor | None = None

    async def __call__(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """`function(*args, **kwargs)` in a worker. Raises what it raises, or OffloadError."""
        if self._pool is None:
            # spawn: forking a process with threads and an event loop copies locks in whatever state they are.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, context, initializer=_leave_signals_to_parent)
        pool = self._pool
        call = functools.partial(function, *args, **kwargs)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(pool, call)
        except TimeoutError as error:
            self._discard(pool)
            raise OffloadError(f"{_name(function)} took longer than {self._timeout_s:g} s") from error
        except BrokenProcessPool as error:
            self._discard(pool)
            raise OffloadError(f"the worker process of {_name(function)} died") from error

    def close(self) -> None:
        """End the workers now; what they compute is lost."""
        if self._pool is not None:
            self._discard(self._pool)

    def _discard(self, pool: ProcessPoolExecutor) -> None:
        if self._pool is pool:
            self._pool = None
        for process in list((pool._processes or {}).values()):
            process.kill()  # a running call cannot be cancelled in any other way
        pool.shutdown(wait=False, cancel_futures=True)


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _leave_signals_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
