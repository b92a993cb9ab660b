"""One command at a time changes a cluster."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster.errors import DevclusterError

LOCKS = Path("/run/lock")


@contextmanager
def exclusive(name: str, folder: Path = LOCKS, wait: bool = False) -> Iterator[None]:
    """Hold a lock; DevclusterError names the holder unless `wait`. The kernel drops it when the holder dies."""
    path = folder / f"trimtab-devcluster-{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as held:
            holder = os.read(descriptor, 64).decode(errors="replace").strip() or "unknown"
            raise DevclusterError(f"cluster {name} is being changed by process {holder}: wait for it to end") from held
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)
