"""Stands between a worker and an engine so that no engine outlives its measurement. Run as a script, standard library
only: `python -I -S guard.py`.

It is the engine's reaper (PR_SET_CHILD_SUBREAPER): whatever the engine starts, in whatever session, is its descendant and
ends with it. Its standard input is the worker's life: at the end of file, of the engine or of patience everything is
killed. The engine in turn dies with the guard (PR_SET_PDEATHSIG; in a cgroup of its own where one can be made). It also
inherits the worker's lease locks, so that hardware is free only when nothing runs on it any more.

Standard input: {"argv", "env", "cpus"} as a line of JSON (not an argument, which everybody may read), then `log` or
`stop SECONDS`. Standard output, one JSON a line: {"pid"}, {"log"}, and last {"exit", ...}.
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
HEAD_LINES, TAIL_LINES, LINE_BYTES = 40, 400, 2000
MARK = "TRIMTAB_MEASURED_BY"
_LOOK_EVERY_S = 0.5


def mark_of(pid: int) -> str:
    """Names a process for good: its id and the moment it began (a process id alone is used again). Raises
    ProcessLookupError where it has ended, also where nobody has waited for it yet."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(pid)
    return f"{pid}:{fields[19]}"


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, zombies left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(") ", 1)[1].split()
            except (OSError, IndexError):
                continue  # ended meanwhile
            if fields[0] not in "ZX":
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, look = [], [pid]
    while look:
        below = children.get(look.pop(), [])
        found += below
        look += below
    return found


def memory_cgroups() -> list[tuple[Path, int]]:
    """Folders of the cgroups that this process is in and that know of memory, and their version. Raises OSError."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for mount in mounts:
            kind, options = mount[mount.index("-") + 1], mount[-1].split(",")
            if controllers == "" and kind == "cgroup2":
                found.append((Path(mount[4]) / path.lstrip("/"), 2))
            elif controllers == "memory" and kind == "cgroup" and "memory" in options:
                found.append((Path(mount[4]) / path.lstrip("/"), 1))
    return found


CGROUP = "trimtab-engine-"  # and the guard's process id


class Cgroup:
    """A version 2 cgroup for the engine where this process may make one, and the count of memory kills above it."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._counters: list[Path] = []
        with contextlib.suppress(OSError):
            self._find()
        self._before = self._kills()

    def _find(self) -> None:
        for own, version in memory_cgroups():
            self._counters.append(own / ("memory.events" if version == 2 else "memory.oom_control"))
            if version == 2:
                self._make(own / f"{CGROUP}{os.getpid()}")

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir()
        except OSError:
            return  # read-only, as in most containers
        if (folder / "cgroup.kill").exists():
            self.folder = folder
        else:
            folder.rmdir()

    def enter(self) -> None:
        """This process and what it starts from now on."""
        if self.folder is not None:
            with contextlib.suppress(OSError):  # the kernel may forbid it; the other means remain
                (self.folder / "cgroup.procs").write_text("0")

    def _kills(self) -> int | None:
        for path in self._counters:
            with contextlib.suppress(OSError):
                lines = path.read_text().splitlines()
                return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
        return None

    def memory_killed(self) -> bool | None:
        """Whether the kernel killed for memory since the start; None where it does not say."""
        now = self._kills()
        return None if now is None or self._before is None else now > self._before

    def kill(self) -> None:
        if self.folder is not None:
            with contextlib.suppress(OSError):
                (self.folder / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        for _ in range(20):  # the kernel takes a moment to forget the last process
            try:
                if self.folder is not None:
                    self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.01)


class Guard:
    def __init__(self, job: dict[str, Any]) -> None:
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._head: list[str] = []
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._partial = b""
        self._exit: int | None = None
        self._kill_at_s: float | None = None
        self._asked = False
        self._said = b""
        self._cgroup = Cgroup()
        self._parent = os.getppid()
        self._wake, wake_write = os.pipe()
        for end in (self._wake, wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_write)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        cpus = job.get("cpus")

        def before() -> None:
            self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            self._cgroup.enter()
            if cpus:
                os.sched_setaffinity(0, cpus)

        env = {**job["env"], MARK: mark_of(os.getpid())}
        try:
            self._engine = subprocess.Popen(
                job["argv"], env=env, start_new_session=True, stdin=subprocess.DEVNULL,
                preexec_fn=before,  # noqa: PLW1509 - one thread here
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except (OSError, ValueError, subprocess.SubprocessError):
            self._cgroup.remove()
            raise

    def _signalled(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self._stop(0.0)

    def _stop(self, grace_s: float) -> None:
        self._asked = True
        if self._kill_at_s is None and grace_s > 0 and self._exit is None:
            with contextlib.suppress(OSError):
                os.killpg(self._engine.pid, signal.SIGTERM)
        self._kill_at_s = min(self._kill_at_s or float("inf"), time.monotonic() + grace_s)

    def run(self) -> None:
        assert self._engine.stdout is not None
        say({"pid": self._engine.pid})
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ, self._listen)
            selector.register(self._wake, selectors.EVENT_READ, self._woken)
            selector.register(self._engine.stdout, selectors.EVENT_READ, self._copy)
            while True:
                for key, _ in selector.select(_LOOK_EVERY_S):
                    if not key.data(key.fd):
                        selector.unregister(key.fileobj)
                self._reap()
                if os.getppid() != self._parent:
                    self._stop(0.0)
                due = self._kill_at_s is not None and time.monotonic() >= self._kill_at_s
                if self._exit is not None or due:
                    break
        self._kill_all()
        os.set_blocking(self._engine.stdout.fileno(), False)
        while self._copy(self._engine.stdout.fileno()):
            pass
        if self._partial:
            self._line(self._partial)
        killed = self._cgroup.memory_killed()
        self._cgroup.remove()
        say(ended(self._exit, asked=self._asked, memory_killed=killed, log=self._log()))

    def _listen(self, fd: int) -> bool:
        data = os.read(fd, 4096)
        if not data:
            self._stop(0.0)
            return False
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            word, _, rest = line.partition(b" ")
            if word == b"log":
                say({"log": self._log()})
            elif word == b"stop":
                self._stop(float(rest or 0))
        return True

    def _woken(self, fd: int) -> bool:
        os.read(fd, 4096)
        return True

    def _copy(self, fd: int) -> bool:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line)
        self._partial = self._partial[:LINE_BYTES]
        return True

    def _line(self, line: bytes) -> None:
        text = line[:LINE_BYTES].decode("utf-8", "replace").rstrip()
        if len(self._head) < HEAD_LINES:
            self._head.append(text)
        else:
            self._tail.append(text)

    def _log(self) -> list[str]:
        return [*self._head, *self._tail]

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._engine.pid:
                self._exit = self._engine.returncode = os.waitstatus_to_exitcode(status)

    def _kill_all(self) -> None:
        while True:
            self._cgroup.kill()
            left = descendants(os.getpid())
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            if not left and self._exit is not None:
                return
            time.sleep(0.01)


def ended(exit_code: int | None, **known: Any) -> dict[str, Any]:
    return {"exit": exit_code, "asked": False, "memory_killed": None, "log": [], "failed": "", **known}


def say(what: dict[str, Any]) -> None:
    """Nobody may listen any more: that is no reason to leave the engine running."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


def first_line() -> bytes:
    """Of standard input, and not a byte more: the rest is for the loop."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(1)  # the worker was gone before it said what to start
        line += byte
    return line


def main() -> int:
    try:
        guard = Guard(json.loads(first_line()))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        say(ended(None, failed=f"{type(error).__name__}: {error}"))
        return 1
    guard.run()
    os._exit(0)  # a broken pipe at the flush of exit would say what `say` has swallowed


if __name__ == "__main__":
    sys.exit(main())
