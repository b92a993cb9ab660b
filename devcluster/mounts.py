"""Mounts below a folder: find them, and take them away before the folder is deleted."""

from __future__ import annotations

import time
from pathlib import Path

from devcluster.errors import DevclusterError
from devcluster.shell import succeeds


def unmount_below(folder: Path) -> None:
    """Unmount everything below a folder, innermost first."""
    deadline = time.monotonic() + 20
    while mounted := below(folder):
        for point in reversed(mounted):
            succeeds(["umount", point]) or succeeds(["umount", "-l", point])
        if time.monotonic() > deadline:
            raise DevclusterError(f"mounts stay under {folder}: {', '.join(below(folder)[:5])}")


def below(folder: Path, table: Path = Path("/proc/self/mounts")) -> list[str]:
    """Mount points below `folder`, in mount order."""
    points = []
    for line in table.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        point = line.split(" ")[1].replace("\\040", " ").replace("\\134", "\\")
        if point.startswith(f"{folder}/"):
            points.append(point)
    return points
