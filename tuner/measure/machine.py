"""The machine beside the engine: who else computes, and what it is."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def busy_s() -> float | None:
    """CPU seconds that all processes and the kernel have used since the machine's start; None where it does not say."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
        user, nice, system, _idle, _wait, interrupts, soft = (int(field) for field in fields[:7])
    except (OSError, ValueError, IndexError):
        return None
    return (user + nice + system + interrupts + soft) / _TICKS_PER_S


class Others:
    """What others than `own_s` counts take of all cores, from its making to `share_pct`."""

    def __init__(self, own_s: Callable[[], float]) -> None:
        self._own_s = own_s
        self._busy_s, self._before_s, self._since_s = busy_s(), own_s(), time.monotonic()

    def share_pct(self, more_own_s: float = 0.0) -> float | None:
        """`more_own_s`: CPU seconds of processes of ours that have ended since."""
        now_s = busy_s()
        wall_s = time.monotonic() - self._since_s
        if now_s is None or self._busy_s is None or wall_s <= 0:
            return None
        others_s = now_s - self._busy_s - (self._own_s() - self._before_s) - more_own_s
        return max(0.0, others_s / (wall_s * (os.cpu_count() or 1)) * 100)


def fingerprint(gpus: Sequence[str] = (), cpus: Sequence[int] = ()) -> str:
    """Names the hardware of a measurement: figures of two fingerprints are not compared. Without the host's name."""
    model = "unknown"
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
        memory_kib = int(Path("/proc/meminfo").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        memory_kib = 0
    count = len(cpus) or len(os.sched_getaffinity(0))
    words = f"{model}, {count} CPUs, {memory_kib / 2**20:.0f} GiB, {platform.system()} {platform.release()}"
    of_gpus = f", GPUs {hashlib.sha256(','.join(sorted(gpus)).encode()).hexdigest()[:12]}" if gpus else ""
    return (words + of_gpus)[:256]
