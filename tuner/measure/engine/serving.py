"""A serving engine from its start to the moment it can be loaded, and to its end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from controlplane.catalog import Engine
from controlplane.model.ports import StopSignal
from controlplane.model.tuning import Setting, Verdict
from tuner.measure.engine.classify import REASON_LINES, verdict_of
from tuner.measure.engine.guard import descendants
from tuner.measure.engine.launch import HOST, Launcher, command_of, environment, port_said
from tuner.measure.engine.process import GuardedProcess
from tuner.measure.http import get

_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.1, 1.0
_PORT_ATTEMPTS = 50


class NotServing(Exception):
    """The engine cannot be measured. `verdict` says about whom that speaks."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


class NoRoom(NotServing):
    """No hardware was free in all the time there was for waiting: that speaks about nobody, and costs no attempt."""

    def __init__(self, reason: str) -> None:
        super().__init__(Verdict.INFRASTRUCTURE, reason)


@contextlib.contextmanager
def serving(
    engine: Engine,
    launcher: Launcher,
    model: str,
    knobs: Setting,
    shape: Setting,
    *,
    folder: Path,
    locks: Sequence[int] = (),
    cpus: Sequence[int] = (),
    gpus: Sequence[str] = (),
    stop: StopSignal,
    deadline_s: float,
) -> Iterator[tuple[GuardedProcess, int]]:
    """A ready engine and its port; afterwards nothing of it runs. Raises NotServing."""
    with contextlib.ExitStack() as stack:
        held = None if launcher.any_port else stack.enter_context(_reserved_port(folder))
        port = held[0] if held is not None else 0
        argv = command_of(engine, model, knobs, shape, port, launcher)
        all_locks = [*locks, *([held[1]] if held is not None else [])]
        process = GuardedProcess(argv, environment(launcher, gpus), cpus=cpus, locks=all_locks)
        stack.callback(process.end, launcher.grace_s)
        yield process, _wait_ready(process, engine, port, stop, deadline_s)


def _wait_ready(process: GuardedProcess, engine: Engine, port: int, stop: StopSignal, deadline_s: float) -> int:
    pause_s, begun_s = _FIRST_LOOK_S, time.monotonic()
    while True:
        ended = process.poll()
        if ended is not None:
            raise NotServing(*verdict_of(ended, when="at start"))
        if port == 0:
            port = port_said(process.log()) or 0
        if port and _healthy(port, engine.health_path):
            if not _listens(process, port):
                raise NotServing(
                    Verdict.INFRASTRUCTURE, f"another process listens on port {port}: it is not this engine"
                )
            return port
        if time.monotonic() > deadline_s:
            waited_s = time.monotonic() - begun_s
            tail = "\n".join(process.log()[-REASON_LINES:])
            raise NotServing(
                Verdict.INFRASTRUCTURE, f"the engine runs but was not ready after {waited_s:.0f} s\n{tail}"
            )
        if stop.wait(pause_s):
            raise NotServing(Verdict.INFRASTRUCTURE, "stopped")
        pause_s = min(pause_s * 1.5, _LONGEST_LOOK_S)


def _healthy(port: int, path: str) -> bool:
    try:
        return get(HOST, port, path, timeout_s=5.0)[0] == 200
    except OSError:
        return False


def _listens(process: GuardedProcess, port: int) -> bool:
    """Whether the process, or one it started, has this listening port. A stranger may have taken it in between."""
    if process.pid is None:
        return False
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A: listening
                    inodes.add(f"socket:[{fields[9]}]")
    for pid in (process.pid, *descendants(process.pid)):
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(entry.readlink()) in inodes:
                        return True
    return False


@contextlib.contextmanager
def _reserved_port(folder: Path) -> Iterator[tuple[int, int]]:
    """A free port that no other worker of this machine takes meanwhile, and its lock. Others may: `_listens` looks."""
    for _ in range(_PORT_ATTEMPTS):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        lock = os.open(folder / f"port-{port}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        try:
            yield port, lock
        finally:
            (folder / f"port-{port}.lock").unlink(missing_ok=True)
            os.close(lock)
        return
    raise NotServing(Verdict.INFRASTRUCTURE, f"no free port in {_PORT_ATTEMPTS} attempts")
