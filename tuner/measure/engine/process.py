"""A process under guard, from the worker's side."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tuner.measure.engine.guard import CGROUP, MARK, descendants, mark_of, memory_cgroups

_GUARD = Path(__file__).with_name("guard.py")
_START_LIMIT_S = 30.0
_END_LIMIT_S = 30.0  # a guard that says nothing for this long after its kill is killed itself
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended. `exit_code` below 0: by that signal; None: it never began (`failed` says why). `asked`: by us.
    `memory_killed`: the kernel killed for memory meanwhile, None where that cannot be known. `around`: what ended it from
    outside (a pod that was evicted), empty where nothing did."""

    exit_code: int | None
    asked: bool = False
    memory_killed: bool | None = None
    log: tuple[str, ...] = ()
    failed: str = ""
    around: str = ""


class Running(Protocol):
    """An engine or a command under way, wherever it runs."""

    def poll(self) -> Ended | None:
        """How it ended, None while it runs."""
        ...

    def log(self) -> Sequence[str]:
        """Its first and its last lines."""
        ...

    def cpu_s(self) -> float | None:
        """CPU seconds it has used, None where they cannot be seen from here."""
        ...


class GuardedProcess:
    """Started by its making; `end` must be called, and nothing of it runs afterwards."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], *, cpus: Sequence[int] = (), locks: Sequence[int] = ()
    ) -> None:
        job = json.dumps({"argv": list(argv), "env": dict(env), "cpus": list(cpus)})
        self.ended: Ended | None = None
        self.pid: int | None = None
        self._buffer = b""
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, pass_fds=tuple(locks),
        )  # fmt: skip
        self._mark = _mark_or_none(self._guard.pid)
        self._say(job)
        said = self._hear(_START_LIMIT_S)
        if said is not None and "pid" in said:
            self.pid = said["pid"]

    def poll(self) -> Ended | None:
        """How it ended, None while it runs."""
        if self.ended is None:
            self._hear(0.0)
        return self.ended

    def log(self) -> tuple[str, ...]:
        """Its first and its last lines."""
        if self.poll() is not None:
            assert self.ended is not None
            return self.ended.log
        self._say("log")
        said = self._hear(5.0)
        return tuple(said["log"]) if said is not None and "log" in said else ()

    def cpu_s(self) -> float:
        """CPU seconds of the process and all it started that still run or were waited for."""
        if self.pid is None:
            return 0.0
        return sum(_cpu_s(pid) for pid in (self.pid, *descendants(self.pid)))

    def end(self, grace_s: float = 0.0) -> Ended:
        """Ask it to end, kill what is left after `grace_s`. Returns when nothing of it runs."""
        if self.ended is None:
            self._say(f"stop {grace_s}")
            deadline_s = time.monotonic() + grace_s + _END_LIMIT_S
            while self.ended is None and time.monotonic() < deadline_s:
                self._hear(deadline_s - time.monotonic())
        self._guard.kill()
        self._guard.wait()
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self._mark is not None:
            _kill_marked({self._mark})
        if self.ended is None:
            self.ended = Ended(None, failed="the guard did not answer")
        return self.ended

    def _say(self, line: str) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError):
            self._guard.stdin.write(line.encode() + b"\n")
            self._guard.stdin.flush()

    def _hear(self, timeout_s: float) -> dict[str, Any] | None:
        """The guard's next line, within this time."""
        assert self._guard.stdout is not None
        deadline_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._guard.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline_s - time.monotonic())):
                    return None
                data = os.read(self._guard.stdout.fileno(), 1 << 16)
                if not data:
                    self.ended = self.ended or Ended(None, failed="the guard ended")
                    return None
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        if "exit" in said:
            self.ended = Ended(said["exit"], said["asked"], said["memory_killed"], tuple(said["log"]), said["failed"])
        return said


def sweep() -> int:
    """Kill marked processes whose guard is gone (both were killed at once): how many there were."""
    marks = set(_marked().values())
    return _kill_marked({mark for mark in marks if _mark_or_none(int(mark.partition(":")[0])) != mark})


def _kill_marked(marks: set[str]) -> int:
    seen: set[int] = set()
    while found := [pid for pid, mark in _marked().items() if mark in marks]:
        for pid in found:
            seen.add(pid)
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    with contextlib.suppress(OSError):
        for folder, version in memory_cgroups():
            if version == 2:
                _clear(folder)
    return len(seen)


def _clear(folder: Path) -> None:
    """Cgroups whose guard is gone: kill what is in them, remove them."""
    for cgroup in folder.glob(f"{CGROUP}*"):
        pid = cgroup.name.removeprefix(CGROUP)
        if pid.isdigit() and _mark_or_none(int(pid)) is None:
            with contextlib.suppress(OSError):
                (cgroup / "cgroup.kill").write_text("1")
                cgroup.rmdir()


def _marked() -> dict[int, str]:
    """Process -> guard, of all processes whose environment this user may read; zombies left out."""
    out = {}
    word = f"{MARK}=".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            for item in environ.split(b"\0"):
                mark = item[len(word) :].decode("ascii", "replace")
                if item.startswith(word) and mark.partition(":")[0].isdigit():
                    out[int(entry.name)] = mark
    return out


def _mark_or_none(pid: int) -> str | None:
    try:
        return mark_of(pid)
    except (OSError, IndexError):
        return None


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return sum(int(field) for field in fields[11:15]) / _TICKS_PER_S
