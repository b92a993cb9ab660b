"""The pins of `versions.toml`, and the go.mod of another Kubernetes minor derived from the committed one."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from typing import Any

from devcluster.errors import DevclusterError
from devcluster.paths import PACKAGE

_SEMVER = re.compile(r"^(\d+)\.(\d+)\.(\d+)$")


@dataclass(frozen=True)
class Module:
    """A Go module at one version."""

    path: str
    version: str


@dataclass(frozen=True)
class Versions:
    """What one cluster is built from."""

    kubernetes: str  # without the "v": 1.36.3
    default_kubernetes: str
    replace_without: tuple[str, ...]  # staging modules of the default minor that this one does not have
    modules: dict[str, Module]
    go_minimum: str
    go_pypi: str
    debian_packages: tuple[str, ...]
    debian_suite: str
    base_packages: tuple[str, ...]

    @property
    def minor(self) -> str:
        """Kubernetes major.minor, e.g. 1.36."""
        return self.kubernetes.rsplit(".", 1)[0]

    def cache_key(self) -> str:
        """Names a folder of built programs: readable version plus a hash over everything that changes the bits."""
        words = [self.kubernetes, *(f"{n}={m.version}" for n, m in sorted(self.modules.items())), *_sources()]
        return f"k{self.kubernetes}-{hashlib.sha256('|'.join(words).encode()).hexdigest()[:12]}"


def _sources() -> list[str]:
    """Content of the tool modules' own Go files, so that editing one rebuilds it."""
    files = sorted((PACKAGE / "tools").glob("*/*"))
    return [f"{file.parent.name}/{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]


def load(minor: str | None = None) -> Versions:
    """Read the pins; `minor` picks a Kubernetes minor, else the default. Raises DevclusterError on an unknown one."""
    with (PACKAGE / "versions.toml").open("rb") as file:
        pins: dict[str, Any] = tomllib.load(file)
    minors = pins["kubernetes"]["minors"]
    default = pins["kubernetes"]["default"]
    wanted = minor or default
    if wanted not in minors:
        raise DevclusterError(f"Kubernetes {wanted} is not pinned: choose one of {', '.join(sorted(minors))}")
    return Versions(
        kubernetes=minors[wanted]["version"],
        default_kubernetes=minors[default]["version"],
        replace_without=tuple(minors[wanted]["replace_without"]),
        modules={name: Module(**module) for name, module in pins["modules"].items()},
        go_minimum=pins["go"]["minimum"],
        go_pypi=pins["go"]["pypi"],
        debian_packages=tuple(pins["debian"]["packages"]),
        debian_suite=pins["debian"]["suite"],
        base_packages=tuple(pins["debian"]["base_packages"]),
    )


def parse_go_version(text: str) -> tuple[int, int, int] | None:
    """`go1.26.8`, `go version go1.26 linux/amd64` -> (1, 26, 8); None when no version is in it."""
    found = re.search(r"(?:go)?(\d+)\.(\d+)(?:\.(\d+))?", text)
    if found is None:
        return None
    return int(found[1]), int(found[2]), int(found[3] or 0)


def staging_version(kubernetes: str) -> str:
    """The version of the staging modules that belong to a release: 1.36.3 -> v0.36.3."""
    match = _SEMVER.match(kubernetes)
    if match is None:
        raise DevclusterError(f"{kubernetes!r} is not a Kubernetes version like 1.36.3")
    return f"v0.{match[2]}.{match[3]}"


def kubernetes_go_mod(committed: str, versions: Versions) -> str:
    """The tool module's go.mod for another release: same module, its own replace block, indirect lines left to tidy."""
    target = staging_version(versions.kubernetes)
    lines = ["module trimtab.dev/devcluster/tools/kubernetes", "", "go 1.26.0", ""]
    lines += [f"require k8s.io/kubernetes v{versions.kubernetes}", "", "replace ("]
    for match in re.finditer(r"^\s*(k8s\.io/([a-z0-9-]+)) => ", committed, re.MULTILINE):
        if match[2] not in versions.replace_without:
            lines.append(f"\t{match[1]} => {match[1]} {target}")
    lines.append(")")
    return "\n".join(lines) + "\n"
