"""Whose hardware it is now: locks on files of this machine, held as long as anything runs on it.

A lock belongs to the open file: the guard of an engine inherits it, so a worker that is killed gives nothing free until
its guard has ended the engine. In a cluster the folder is one of the node's (hostPath), the same for all worker pods.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from controlplane.catalog import load
from controlplane.model.ports import StopSignal
from tuner.measure.engine.guard import MARK

_POLL_S = 0.2
_NAME = re.compile(r"[^A-Za-z0-9._-]")
# Modules that stand in a process list where the catalogue has a command.
_MODULES = ("trimtab_engine.cli", "vllm.entrypoints.openai.api_server", "sglang.launch_server")


class NotLeased(Exception):
    """The hardware cannot be had. The message says who has it or what is in the way."""


class InUse(NotLeased):
    """Another measurement had it all the time: waiting longer helps."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What one measurement uses. Without `share_host` it has the host to itself; with it only these GPUs and CPUs
    (whoever shares a host shares its memory bandwidth and its noise)."""

    gpus: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    share_host: bool = False


@contextlib.contextmanager
def hold(folder: Path, hardware: Hardware, *, stop: StopSignal, deadline_s: float) -> Iterator[list[int]]:
    """Waits for the hardware. The file descriptors of its locks. Raises NotLeased."""
    with contextlib.ExitStack() as stack:
        locks: list[int] = []
        # Always in one order: two measurements never wait for each other.
        wanted = [("host", fcntl.LOCK_SH if hardware.share_host else fcntl.LOCK_EX)]
        wanted += [(f"gpu-{gpu}", fcntl.LOCK_EX) for gpu in sorted(hardware.gpus)]
        wanted += [(f"cpu-{cpu:05}", fcntl.LOCK_EX) for cpu in sorted(hardware.cpus)]
        for name, kind in wanted:
            lock = _open(folder, name)
            stack.callback(os.close, lock)
            _lock(lock, kind, name, stop, deadline_s)
            locks.append(lock)
        yield locks


def _open(folder: Path, name: str) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / f"{_NAME.sub('_', name)}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise NotLeased(f"lock of {name} in {folder}: {error.strerror}") from error


def _lock(lock: int, kind: int, name: str, stop: StopSignal, deadline_s: float) -> None:
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            raise NotLeased(f"lock of {name}: {error.strerror}") from error
        if time.monotonic() > deadline_s:
            raise InUse(f"{name} was in use by another measurement all the time")
        if stop.wait(_POLL_S):
            raise NotLeased("stopped")


def live_engines() -> list[str]:
    """Serving engines on this machine that no measurement started, as `PID: COMMAND`. What a container cannot see is
    not found: there the placement of trial pods keeps them apart."""
    commands = [engine.launch.command for engine in load().engines.values()]
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if _serves(words, commands) and f"{MARK}=".encode() not in (entry / "environ").read_bytes():
                found.append(f"{entry.name}: {' '.join(words)[:80]}")
        except OSError:
            continue  # ended meanwhile, or of another user
    return sorted(found)


def _serves(words: Sequence[str], commands: Sequence[Sequence[str]]) -> bool:
    names = [Path(word).name for word in words[:6]]
    if any(word in _MODULES for word in words[:6]):
        return True
    return any(
        list(command[:2]) == names[at : at + 2] for command in commands for at in range(3) if command[0] != "python3"
    )
