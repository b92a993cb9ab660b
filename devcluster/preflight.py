"""What this machine must be to host a cluster, and what is missing when it is not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from devcluster.errors import DevclusterError
from devcluster.shell import run
from devcluster.versions import Versions

# Debian package -> a file it brings
_PROBES = {
    "containerd": "/usr/bin/containerd",
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "/usr/sbin/iptables",
    "iproute2": "/usr/sbin/ip",
    "util-linux": "/usr/bin/nsenter",
    "openssl": "/usr/bin/openssl",
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
    "buildah": "/usr/bin/buildah",
    "debootstrap": "/usr/sbin/debootstrap",
}
_WAY_OUT = "or install into a cluster you have: make up KUBECONFIG=path REGISTRY=host/prefix"


def problems(uid: int, version: tuple[int, int], has_apt: bool, memory_bytes: int, disk_free_bytes: int) -> list[str]:
    """What stands in the way, in words; an empty list when nothing does."""
    found = []
    if sys.platform != "linux":
        found.append(f"this is {sys.platform}, not Linux")
    if uid != 0:
        found.append("not root: network namespaces, containerd and cgroups need it (try: sudo make up)")
    if version < (3, 11):
        found.append(f"Python {version[0]}.{version[1]} is too old: 3.11 or newer is needed")
    if not has_apt:
        found.append("no apt-get: containerd, buildah and the base image come from Debian packages")
    if memory_bytes < 4 * 2**30:
        found.append(f"{memory_bytes / 2**30:.1f} GiB of memory: the cluster needs 4 GiB, building it 6 GiB")
    if disk_free_bytes < 15 * 2**30:
        found.append(f"{disk_free_bytes / 2**30:.0f} GiB free disk: caches, images and state need about 15 GiB")
    return found


def require_host(state_root: Path, *, room: bool = True) -> None:
    """Raise DevclusterError naming everything this machine lacks, and the other way to go. `room` False: memory and disk
    do not matter, as for a removal, which is what gives them back."""
    page = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    existing = next(path for path in (state_root, *state_root.parents) if path.exists())
    disk = shutil.disk_usage(existing).free
    if not room:
        page = disk = 1 << 62
    found = problems(os.geteuid(), sys.version_info[:2], shutil.which("apt-get") is not None, page, disk)
    if found:
        lines = "\n".join(f"  - {line}" for line in found)
        raise DevclusterError(f"a cluster cannot run on this machine:\n{lines}\nPut that right, {_WAY_OUT}")


def missing_packages(versions: Versions) -> list[str]:
    """Debian packages whose files are not there."""
    return [name for name in versions.debian_packages if not Path(_PROBES[name]).exists()]


def install_packages(versions: Versions, note: Callable[[str], None]) -> str:
    """Install what is missing with apt-get, by the host's own settings."""
    missing = missing_packages(versions)
    if not missing:
        return "nothing missing"
    note(f"apt-get install {' '.join(missing)}")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], env=env)
    run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], env=env)
    left = missing_packages(versions)
    if left:
        files = ", ".join(_PROBES[name] for name in left)
        raise DevclusterError(
            f"apt-get installed {', '.join(left)}, but {files} did not appear: is this Debian 12 or newer?"
        )
    return f"installed {', '.join(missing)}"
