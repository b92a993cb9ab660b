"""Build the cluster's programs from Go modules, once, into the cache."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devcluster.paths import PACKAGE, cache_root, write_atomic
from devcluster.shell import run
from devcluster.toolchain import find_go, go_environment
from devcluster.versions import Versions, kubernetes_go_mod, staging_version

KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "kube-proxy",
)


@dataclass(frozen=True)
class Program:
    """One executable: built in module folder `tool` from `package`, named `name`."""

    name: str
    tool: str
    package: str


PROGRAMS = (
    *(Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}") for name in KUBERNETES_PROGRAMS),
    Program("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    Program("helm", "helm", "helm.sh/helm/v4/cmd/helm"),
    Program("coredns", "coredns", "."),
    Program("pause", "pause", "."),
)


def binary_dir(versions: Versions) -> Path:
    """Folder of the built programs of these versions."""
    return cache_root() / "bin" / versions.cache_key()


def missing(versions: Versions, names: Collection[str] | None = None) -> list[Program]:
    """Programs not built yet, among `names` when given."""
    folder = binary_dir(versions)
    wanted = [program for program in PROGRAMS if names is None or program.name in names]
    return [program for program in wanted if not (folder / program.name).is_file()]


def build_all(versions: Versions, note: Callable[[str], None], names: Collection[str] | None = None) -> str:
    """Build whatever is missing; safe to interrupt and to run twice at once. Returns a line for the reader."""
    with _lock(versions):
        todo = missing(versions, names)
        if not todo:
            return "all programs in the cache"
        go = find_go(versions, note)
        by_tool: dict[str, list[Program]] = {}
        for program in todo:
            by_tool.setdefault(program.tool, []).append(program)
        for number, (tool, programs) in enumerate(by_tool.items(), 1):
            note(f"{tool} ({number} of {len(by_tool)})")
            _build_tool(go, tool, programs, versions)
        return f"built {len(todo)} programs"


def linker_flags(tool: str, versions: Versions) -> str:
    """`-ldflags`: small binaries that know their own version."""
    flags = ["-s", "-w"]
    if tool == "kubernetes":
        major, minor, _ = versions.kubernetes.split(".")
        base = "k8s.io/component-base/version"
        flags += [f"-X {base}.gitVersion=v{versions.kubernetes}", f"-X {base}.gitMajor={major}"]
        flags += [f"-X {base}.gitMinor={minor}", f"-X k8s.io/client-go/pkg/version.gitVersion=v{versions.kubernetes}"]
    elif tool == "helm":
        flags.append(f"-X helm.sh/helm/v4/internal/version.version={versions.modules['helm'].version}")
    return " ".join(flags)


def _build_tool(go: Path, tool: str, programs: list[Program], versions: Versions) -> None:
    source = _tool_source(go, tool, versions)
    folder = binary_dir(versions)
    draft = folder / f".partial-{tool}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    base: list[str | Path] = [go, "build", "-trimpath", "-ldflags", linker_flags(tool, versions), "-o"]
    log = cache_root() / "build.log"
    if len(programs) == 1:
        run([*base, draft / programs[0].name, programs[0].package], cwd=source, env=go_environment(), log=log)
    else:
        run([*base, f"{draft}/", *(p.package for p in programs)], cwd=source, env=go_environment(), log=log)
    for program in programs:
        (draft / program.name).rename(folder / program.name)
    draft.rmdir()


def _tool_source(go: Path, tool: str, versions: Versions) -> Path:
    """Module folder of a tool; for another Kubernetes minor a generated one in the cache."""
    committed = PACKAGE / "tools" / tool
    if tool != "kubernetes" or versions.kubernetes == versions.default_kubernetes:
        return committed
    generated = cache_root() / "src" / f"kubernetes-{staging_version(versions.kubernetes)}"
    text = kubernetes_go_mod((committed / "go.mod").read_text(encoding="utf-8"), versions)
    if not (generated / "go.sum").exists():
        write_atomic(generated / "go.mod", text)
        shutil.copy(committed / "tools.go", generated / "tools.go")
        run([go, "mod", "tidy"], cwd=generated, env=go_environment())
    return generated


@contextmanager
def _lock(versions: Versions) -> Iterator[None]:
    """One builder at a time per set of versions; the kernel drops the lock when its holder dies."""
    folder = binary_dir(versions)
    path = folder.with_name(f"{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
