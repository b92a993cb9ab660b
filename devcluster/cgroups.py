"""The cgroups of real nodes, on hosts with cgroup v1 and v2."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from devcluster.errors import DevclusterError

ROOT = Path("/sys/fs/cgroup")
_V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids", "hugetlb")


def is_v2(root: Path = ROOT) -> bool:
    """Whether the host runs the unified hierarchy."""
    return (root / "cgroup.controllers").exists()


def hierarchies(root: Path = ROOT) -> list[Path]:
    """Every mounted hierarchy: the root itself on v2, one folder per v1 controller otherwise."""
    if is_v2(root):
        return [root]
    folders = (path for path in sorted(root.iterdir()) if path.is_dir() and not path.is_symlink())
    return [path for path in folders if (path / "cgroup.procs").exists() and not (path / "cgroup.controllers").exists()]


def _everywhere(root: Path) -> list[Path]:
    """All hierarchies and, beside v1 controllers, the unified one: runc makes cgroups there as well."""
    unified = root / "unified"
    return [*hierarchies(root), *([unified] if (unified / "cgroup.procs").exists() else [])]


def ensure(name: str, root: Path = ROOT) -> None:
    """Create cgroup `name` (a relative path) with the controllers kubelet asks for."""
    found = hierarchies(root)
    if not found:
        raise DevclusterError(f"no cgroup hierarchy is mounted under {root}: mount one, or use KUBECONFIG= instead")
    for base in found:
        folder = base
        for part in Path(name).parts:
            parent, folder = folder, folder / part
            if is_v2(root):
                _enable_controllers(parent)
            folder.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):  # v1: an empty cpuset admits no process
                if not is_v2(root) and (folder / file).exists() and not (folder / file).read_text().strip():
                    (folder / file).write_text((parent / file).read_text())


def _enable_controllers(folder: Path) -> None:
    """Hand controllers down to children; those the kernel refuses here are left out."""
    available = (folder / "cgroup.controllers").read_text(encoding="ascii").split()
    for controller in _V2_CONTROLLERS:
        if controller in available:
            try:
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError:
                continue


def processes(name: str, root: Path = ROOT) -> set[int]:
    """Process ids inside cgroup `name` and everything below it."""
    found: set[int] = set()
    for base in _everywhere(root):
        for file in (base / name).glob("**/cgroup.procs"):
            try:
                found.update(int(word) for word in file.read_text(encoding="ascii").split())
            except OSError:
                continue
    return found


def remove(name: str, root: Path = ROOT, patience_s: float = 10.0) -> None:
    """Kill what runs in cgroup `name` and delete it. Membership is read from the kernel, so no other process is hit."""
    deadline = time.monotonic() + patience_s
    while True:
        for pid in processes(name, root):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        deleted = [_delete_tree(base / name) for base in _everywhere(root)]  # each hierarchy gets its turn
        if all(deleted):
            return
        if time.monotonic() > deadline:
            raise DevclusterError(f"cgroup {name} cannot be removed: processes {sorted(processes(name, root))} stay")
        time.sleep(0.05)


def exists(name: str, root: Path = ROOT) -> bool:
    """Whether anything of cgroup `name` is left."""
    return any((base / name).exists() for base in _everywhere(root))


def _delete_tree(folder: Path) -> bool:
    if not folder.exists():
        return True
    for child in sorted((p for p in folder.glob("**/") if p != folder), key=lambda p: -len(p.parts)):
        try:
            child.rmdir()
        except OSError:
            continue
    try:
        folder.rmdir()
    except OSError:
        return not folder.exists()
    return True
