"""Start, find and end the processes of a cluster.

No pid files: every process carries two variables in its environment, the cluster's state folder and its component.
/proc then answers who is alive, after a crash of ours or a reboot as well, and a recycled process id is never touched.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from devcluster.errors import DevclusterError

CLUSTER_MARK = "TRIMTAB_DEVCLUSTER"
COMPONENT_MARK = "TRIMTAB_COMPONENT"
SETTLE_S = 0.15  # a program that dislikes its arguments or a taken port has ended by then
LOG_LIMIT_BYTES = 64 * 1024 * 1024
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True)
class Spec:
    """How to start one component. `prefix` runs before the program and replaces itself by it (nsenter)."""

    name: str
    argv: tuple[str, ...]
    prefix: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Process:
    """A live process of ours. `start_ticks` tells it from a later one with the same id."""

    pid: int
    start_ticks: int
    state: str
    component: str
    argv: tuple[str, ...]

    @property
    def is_main(self) -> bool:
        """False for children that inherited the marks: shims, mount helpers, CNI plug-ins."""
        program = Path(self.argv[0]).name if self.argv else ""
        return not program.startswith("containerd-shim")


def scan(state: Path, proc: Path = Path("/proc")) -> list[Process]:
    """Every live process marked with this cluster's state folder."""
    mark = f"{CLUSTER_MARK}={state}".encode()
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            if mark not in variables:
                continue
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            argv = (entry / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
        except (OSError, ValueError):
            continue  # it ended while we looked
        if fields[0] in "ZX":
            continue
        prefix = f"{COMPONENT_MARK}=".encode()
        component = next((v[len(prefix) :].decode() for v in variables if v.startswith(prefix)), "")
        found.append(Process(int(entry.name), int(fields[19]), fields[0], component, tuple(argv)))
    return found


def find(state: Path, component: str) -> Process | None:
    """The main process of a component, None when it is not running. The oldest wins: its children inherit the marks."""
    mine = [process for process in scan(state) if process.component == component and process.is_main]
    return min(mine, key=lambda process: (process.start_ticks, process.pid), default=None)


def ensure(state: Path, spec: Spec) -> Process:
    """Have `spec` running with exactly this command line; one with another command line is replaced."""
    running = find(state, spec.name)
    if running is not None:
        if running.argv == spec.argv:
            if running.state == "T":
                os.kill(running.pid, signal.SIGCONT)
            return running
        end([running])
    return start(state, spec)


def start(state: Path, spec: Spec) -> Process:
    """Start a component, detached, its output appended to `logs/NAME.log`."""
    logs = state / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{spec.name}.log"
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.old"))
    env = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    env.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    env.update(spec.env)
    env[CLUSTER_MARK] = str(state)
    env[COMPONENT_MARK] = spec.name
    with log.open("ab") as output:
        child = subprocess.Popen(
            [*spec.prefix, *spec.argv],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )
    _unreaped[child.pid] = child
    settled = time.monotonic() + SETTLE_S
    deadline = settled + 5
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise DevclusterError(
                f"{spec.name} ended at once with status {child.returncode}:\n{tail(state, spec.name)}"
            )
        running = find(state, spec.name)
        if running is not None and running.argv == spec.argv and time.monotonic() > settled:
            return running
        time.sleep(0.02)  # nsenter has not become the program yet, or the program may still refuse its arguments
    raise DevclusterError(f"{spec.name} did not start within 5 s:\n{tail(state, spec.name)}")


_unreaped: dict[int, subprocess.Popen[bytes]] = {}


@atexit.register
def _let_go() -> None:
    """Components outlive whoever started them: Popen shall not warn about that."""
    for child in _unreaped.values():
        child.returncode = child.poll() or 0


def end(processes: Iterable[Process], grace_s: float = 5.0) -> None:
    """Ask processes to end, kill those that have not after `grace_s`. Never touches a recycled process id."""
    left = list(processes)
    for process in left:
        send(process, signal.SIGCONT)
        send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline:
        time.sleep(0.03)
        left = [process for process in left if alive(process)]
    for process in left:
        send(process, signal.SIGKILL)
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline:
        time.sleep(0.03)
        left = [process for process in left if alive(process)]
    if left:
        raise DevclusterError(f"processes do not end: {', '.join(f'{p.component} ({p.pid})' for p in left)}")


def send(process: Process, number: signal.Signals) -> bool:
    """Signal a process if it is still the one we know; whether it was."""
    if not alive(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def alive(process: Process) -> bool:
    """Whether the process with this id is still the same one and not a zombie. While threads of a killed process are
    still on their way out its first one is a zombie already, and its sockets are still taken: that counts as alive."""
    child = _unreaped.get(process.pid)
    if child is not None and child.poll() is not None:
        del _unreaped[process.pid]
        return False
    try:
        text = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    fields = text.rpartition(")")[2].split()
    threads = int(fields[17])
    return (fields[0] not in "ZX" or threads > 1) and int(fields[19]) == process.start_ticks


def tail(state: Path, component: str, lines: int = 15) -> str:
    """The end of a component's log."""
    log = state / "logs" / f"{component}.log"
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def usage(processes: Iterable[Process]) -> Mapping[str, int]:
    """Resident memory in bytes by component."""
    total: dict[str, int] = {}
    page = os.sysconf("SC_PAGE_SIZE")
    for process in processes:
        try:
            fields = Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()
        except OSError:
            continue
        total[process.component] = total.get(process.component, 0) + int(fields[1]) * page
    return total
