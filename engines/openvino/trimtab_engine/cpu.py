"""How many CPUs this process may really use, how much memory, and which instructions the CPU announces.

Affinity and the cgroup CPU quota both limit a container; OpenVINO looks at affinity only and would start a thread per
visible core, which then throttle each other under the quota.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Host:
    """The machine as seen from inside. `quota_cpus` and `memory_limit_bytes` are None without a limit."""

    affinity_cpus: int
    quota_cpus: float | None
    memory_limit_bytes: int | None
    amx_bf16: bool

    @property
    def usable_cpus(self) -> int:
        """Threads worth running: the affinity mask, cut by the quota rounded up."""
        if self.quota_cpus is None:
            return self.affinity_cpus
        return max(1, min(self.affinity_cpus, math.ceil(self.quota_cpus)))


def inspect_host(root: Path = Path("/")) -> Host:
    """Read affinity, cgroup (version 1 or 2) limits and CPU flags. Unreadable files count as no limit."""
    cpuinfo = _read(root / "proc/cpuinfo")
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "").split()
    return Host(
        affinity_cpus=len(os.sched_getaffinity(0)),
        quota_cpus=_quota_cpus(root),
        memory_limit_bytes=_memory_limit_bytes(root),
        amx_bf16="amx_bf16" in flags,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _cgroup_dirs(root: Path, controller: str) -> list[Path]:
    """The directories of this process' cgroup and its parents, innermost first; any of them may hold the limit."""
    found: list[Path] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        found.extend(mount.joinpath(*parts[:count]) for count in range(len(parts), -1, -1))
    return found


def _quota_cpus(root: Path) -> float | None:
    limits = []
    for folder in _cgroup_dirs(root, "cpu"):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            limits.append(int(words[0]) / int(words[1]))
        quota = _read(folder / "cpu.cfs_quota_us").strip()
        period = _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(quota) and int(period):
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _memory_limit_bytes(root: Path) -> int | None:
    limits = []
    for folder in _cgroup_dirs(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit() and int(text) < 1 << 60:  # version 1 writes a number near 2**63 for "no limit"
                limits.append(int(text))
    return min(limits, default=None)
