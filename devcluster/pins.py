"""Carry the pins of `versions.toml` into the Go modules' own files: what `devcluster tidy` does after an edit."""

from __future__ import annotations

from collections.abc import Callable

from devcluster.paths import PACKAGE, write_atomic
from devcluster.shell import run
from devcluster.toolchain import find_go, go_environment
from devcluster.versions import Versions, kubernetes_go_mod


def tidy(versions: Versions, note: Callable[[str], None]) -> str:
    """Rewrite go.mod and go.sum of every tool. Review and commit the result."""
    go = find_go(versions, note)
    tools = sorted(folder.parent for folder in (PACKAGE / "tools").glob("*/go.mod"))
    for folder in tools:
        note(folder.name)
        if folder.name == "kubernetes":
            text = kubernetes_go_mod((folder / "go.mod").read_text(encoding="utf-8"), versions)
            write_atomic(folder / "go.mod", text)
        elif folder.name in versions.modules:
            module = versions.modules[folder.name]
            requirement = f"-require={module.path}@{module.version}"
            run([go, "mod", "edit", requirement], cwd=folder, env=go_environment())
        run([go, "mod", "tidy"], cwd=folder, env=go_environment())
    return f"{len(tools)} modules follow versions.toml"
