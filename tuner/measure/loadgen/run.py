"""Runs a job in load processes: splits it, starts them together, joins what they saw."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from controlplane.model.ports import StopSignal
from tuner.measure.loadgen.early import Early, from_line, is_early
from tuner.measure.loadgen.job import LoadJob, LoadResult

# CPU of one asyncio load process: measured by `make bench B=loadgen` (docs/tuning-measurement.md) and rounded up.
CPU_S_PER_REQUEST = 0.001
CPU_S_PER_CHUNK = 0.00004
# A process that is busier than this sends late: its event loop is a queue (arXiv 2605.24217 measures the effect).
BUSY_SHARE = 0.35
CLIENTS_OF_A_PROCESS = 256

_BEGIN_IN_S = 0.1
_POLL_S = 0.2
_START_LIMIT_S = 120.0

# Whether the first requests of a job (`look_at`) say enough: no more are sent then.
Look = Callable[[Sequence[Early]], bool]


class LoadFailed(Exception):
    """The load could not be driven: says nothing about the engine."""


class Stopped(Exception):
    """The caller's stop signal, or the deadline, came first."""


def processes_for(job: LoadJob, cores: int) -> int:
    """How many load processes this job needs, at most `cores`."""
    if job.clients is not None:
        return max(1, min(cores, math.ceil(job.clients / CLIENTS_OF_A_PROCESS)))
    span_s = max(job.requests[-1][0] - job.requests[0][0], 1e-3)
    chunks = sum(row[2] for row in job.requests)
    busy = (len(job.requests) * CPU_S_PER_REQUEST + chunks * CPU_S_PER_CHUNK) / span_s
    return max(1, min(cores, math.ceil(busy / BUSY_SHARE), len(job.requests)))


def split(job: LoadJob, parts: int) -> list[LoadJob]:
    """Every part gets every so-manieth request, with its number, and its share of the clients."""
    if parts == 1:
        return [dataclasses.replace(job, numbers=tuple(range(len(job.requests))))]
    out = []
    for part in range(parts):
        numbers = tuple(range(part, len(job.requests), parts))
        clients = None if job.clients is None else job.clients // parts + (part < job.clients % parts)
        out.append(
            dataclasses.replace(job, requests=tuple(job.requests[i] for i in numbers), numbers=numbers, clients=clients)
        )
    return out


def run_load(
    job: LoadJob, *, stop: StopSignal, deadline_s: float, processes: int | None = None, look: Look | None = None
) -> LoadResult:
    """Blocks until every request has been answered or given up. `deadline_s`: on the monotonic clock. Raises Stopped
    or LoadFailed; no load process is left either way."""
    parts = split(job, processes or processes_for(job, len(os.sched_getaffinity(0))))
    children: list[subprocess.Popen[bytes]] = []
    try:
        for _ in parts:
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tuner.measure.loadgen.worker", str(os.getpid())],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )
            )  # fmt: skip
        for child, part in zip(children, parts, strict=True):
            _say(child, part.to_json())
        begin_by_s = min(deadline_s, time.monotonic() + _START_LIMIT_S)
        for _, answer in _said(children, stop, begin_by_s):
            if answer != b"ready":
                raise LoadFailed("a load process did not get ready")
        start_s = time.monotonic() + _BEGIN_IN_S
        for child in children:
            _say(child, f"start {start_s!r}")
        lines = _said(children, stop, deadline_s)
        return _results(children, lines, sum(bool(part.looked) for part in parts), look)
    except OSError as error:
        raise LoadFailed(f"load process: {error}") from error
    finally:
        for child in children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was buffered for a dead process
                        pipe.close()


def _say(child: subprocess.Popen[bytes], line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line.encode() + b"\n")
    child.stdin.flush()


def _results(
    children: Sequence[subprocess.Popen[bytes]], lines: Iterator[tuple[int, bytes]], looking: int, look: Look | None
) -> LoadResult:
    """What the children found. `looking`: so many of them tell of their first requests before."""
    results: dict[int, LoadResult] = {}
    early: dict[int, list[Early]] = {}
    cut = False
    for index, line in lines:
        if not is_early(line):
            results[index] = LoadResult.from_json(line.decode())
            continue
        early[index] = from_line(line)
        if look is not None and len(early) == looking:
            cut = look(sorted((one for part in early.values() for one in part), key=lambda one: one.number))
            for child in children if cut else ():
                with contextlib.suppress(BrokenPipeError):  # one that has sent all has ended
                    _say(child, "enough")
    return dataclasses.replace(_joined([results[index] for index in sorted(results)]), cut=cut)


def _said(
    children: Sequence[subprocess.Popen[bytes]], stop: StopSignal, deadline_s: float
) -> Iterator[tuple[int, bytes]]:
    """Lines of the children as they come, up to each one's first that is more than an early word."""
    found: dict[int, bytearray] = {index: bytearray() for index in range(len(children))}
    waiting = set(found)
    with selectors.DefaultSelector() as selector:
        for index, child in enumerate(children):
            assert child.stdout is not None
            selector.register(child.stdout, selectors.EVENT_READ, index)
        while waiting:
            if stop.is_set():
                raise Stopped("stopped")
            if time.monotonic() > deadline_s:
                raise Stopped("the time of the attempt ran out")
            for key, _ in selector.select(_POLL_S):
                data = os.read(key.fd, 1 << 20)
                if not data:
                    raise LoadFailed(f"a load process ended ({children[key.data].wait()})")
                found[key.data] += data
                if b"\n" not in data:
                    continue
                *lines, rest = bytes(found[key.data]).split(b"\n")
                found[key.data] = bytearray(rest)
                for line in lines:
                    yield key.data, line
                    if not is_early(line):
                        waiting.discard(key.data)
                        selector.unregister(key.fileobj)


def _joined(results: Sequence[LoadResult]) -> LoadResult:
    samples = sorted((sample for result in results for sample in result.samples), key=lambda sample: sample.number)
    return LoadResult(
        tuple(samples),
        sum(result.cpu_s for result in results),
        len(results),
        any(result.saturated for result in results),
    )
