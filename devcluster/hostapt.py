"""Lend the host's apt settings to an image build: a proxy, and what its mirror needs, without leaving them in the image.

Sources are those of the base image: debootstrap wrote the host's mirror into them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster.shell import run

_PASSED_ON = re.compile(r'^Acquire::(https?::Proxy(::.*)?|Check-Valid-Until|Check-Date|Retries) ".*";$')
NAME = "/etc/apt/apt.conf.d/99host"


@contextmanager
def mounts() -> Iterator[list[str]]:
    """`-v` options for a build."""
    with tempfile.TemporaryDirectory(prefix="trimtab-apt-") as folder:
        Path(folder).chmod(0o755)
        config = Path(folder) / "apt.conf"
        config.write_text(apt_conf(run(["apt-config", "dump"])), encoding="utf-8")
        config.chmod(0o644)
        yield ["-v", f"{config}:{NAME}:ro"]


def apt_conf(dumped: str) -> str:
    """The lines of `apt-config dump` that a build needs. Downloads are made as root: a build's account for them has no
    rights in the mounts."""
    lines = [line for line in dumped.splitlines() if _PASSED_ON.match(line)]
    return "\n".join([*lines, 'APT::Sandbox::User "root";']) + "\n"
