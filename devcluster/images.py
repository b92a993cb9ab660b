"""Build images from the Containerfiles under `images/`, without a daemon, and put them on the nodes.

A tag is a hash over everything the image is made of, so an unchanged tree builds and imports nothing. Locally the base
image is made by debootstrap; the same Containerfile builds on `python:3.11-slim-bookworm` elsewhere.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devcluster import hostapt, hostpip, imageprune, mounts
from devcluster.errors import DevclusterError
from devcluster.lock import exclusive
from devcluster.paths import TREE, cache_root
from devcluster.shell import run, succeeds
from devcluster.versions import Versions

Note = Callable[[str], None]
LOCAL_PREFIX = "localhost/trimtab"
_IGNORED = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "tests"}


@dataclass(frozen=True)
class Image:
    """One image: `images/NAME/Containerfile` over the files of `context`, a folder relative to the tree."""

    name: str
    context: str

    @property
    def containerfile(self) -> Path:
        """The recipe."""
        return TREE / "images" / self.name / "Containerfile"


# What Trimtab is: built wherever it is installed from this tree.
OURS = {
    "trimtab": Image("trimtab", "."),
    "engine-openvino": Image("engine-openvino", "engines/openvino"),
}
# What this machine cannot pull: other clusters get the stock images.
SERVERS = {"postgresql": Image("postgresql", "."), "redis": Image("redis", ".")}
IMAGES = {**OURS, **SERVERS}


def copied_paths(containerfile: str) -> list[str]:
    """Sources of the COPY lines that read the context: what the image is made of beside the recipe itself."""
    paths = []
    for match in re.finditer(r"^COPY\s+(.+)$", containerfile, re.MULTILINE):
        words = shlex.split(match[1])
        if not any(word.startswith("--from") for word in words):
            paths += [word for word in words[:-1] if not word.startswith("--")]
    return sorted(set(paths))


def content_tag(image: Image, base: str, tree: Path = TREE) -> str:
    """A tag that changes with the recipe, any copied file, or the base."""
    recipe = tree / "images" / image.name / "Containerfile"
    if not recipe.is_file():
        raise DevclusterError(f"there is no {recipe.relative_to(tree)}")
    text = recipe.read_text(encoding="utf-8")
    digest = hashlib.sha256(f"{base}\n{text}".encode())
    context = tree / image.context
    for path in copied_paths(text):
        source = context / path
        if not source.exists():
            raise DevclusterError(f"{recipe.relative_to(tree)} copies {path}, which {context} does not have")
        files = [source] if source.is_file() else sorted(source.rglob("*"))
        for file in files:
            parts = file.relative_to(context).parts
            if file.is_file() and not _IGNORED.intersection(parts) and file.suffix != ".pyc":
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{file.relative_to(context)} {content}\n".encode())
    return digest.hexdigest()[:16]


def buildah(*arguments: object) -> list[str]:
    """A buildah command on our own storage, apart from the user's images."""
    root = cache_root() / "images"
    runtime = f"/run/trimtab-buildah/{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"
    storage = ["--root", root / "storage", "--runroot", runtime, "--storage-driver", "overlay"]
    return ["buildah", *map(str, storage), *map(str, arguments)]


def exists(reference: str) -> bool:
    """Whether our storage has the image."""
    return succeeds(buildah("inspect", "--type", "image", reference))


def base_image(versions: Versions, note: Note) -> str:
    """The local base image, made by debootstrap from the mirror that apt is set to; returns its reference."""
    words = [versions.debian_suite, *versions.base_packages]
    key = hashlib.sha256(" ".join(words).encode()).hexdigest()[:12]
    reference = f"{LOCAL_PREFIX}/base:{versions.debian_suite}-{key}"
    with exclusive("image-base", wait=True):
        if not exists(reference):
            _make_base(versions, reference, note)
    return reference


def _make_base(versions: Versions, reference: str, note: Note) -> None:
    key = reference.rpartition("-")[2]
    rootfs = cache_root() / "images" / f"rootfs-{key}"
    if not (rootfs / ".complete").exists():
        note(f"debootstrap {versions.debian_suite}: Debian's own Python, about a minute")
        mounts.unmount_below(rootfs)  # an interrupted debootstrap leaves /proc mounted in there
        shutil.rmtree(rootfs, ignore_errors=True)
        rootfs.parent.mkdir(parents=True, exist_ok=True)
        include = ",".join(versions.base_packages)
        argv = ["debootstrap", "--variant=minbase", f"--include={include}", versions.debian_suite, rootfs]
        run([*argv, debian_mirror(versions.debian_suite)], env=apt_proxy(), log=cache_root() / "images.log")
        for folder in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"):
            shutil.rmtree(rootfs / folder, ignore_errors=True)
            (rootfs / folder).mkdir(parents=True)
        (rootfs / ".complete").touch()
    note("committing the base image")
    container = run(buildah("from", "scratch")).strip()
    try:
        run(buildah("add", "--quiet", container, rootfs, "/"))
        run(buildah("config", "--env", "LANG=C.UTF-8", container))
        run(buildah("commit", "--quiet", container, reference))
    finally:
        run(buildah("rm", container))
    shutil.rmtree(rootfs, ignore_errors=True)


def debian_mirror(suite: str) -> str:
    """The mirror apt uses on this machine for `suite`, else for any Debian main component."""
    listing = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    )
    rows = [line.split() for line in listing.splitlines() if len(line.split()) == 3]
    for wanted in (lambda row: row[1] == suite, lambda row: "-" not in row[1]):
        for row in rows:
            if row[2] == "main" and wanted(row) and "security" not in row[0]:
                return row[0]
    raise DevclusterError(f"apt has no source for Debian {suite}: add one, the base image is made from it")


def apt_proxy() -> dict[str, str]:
    """apt's proxy as the variables that debootstrap's downloader reads."""
    found = {}
    for scheme in ("http", "https"):
        line = run(["apt-config", "shell", "value", f"Acquire::{scheme}::Proxy"]).strip()
        if line:
            found[f"{scheme}_proxy"] = shlex.split(line)[0].removeprefix("value=")
    return found


def build(image: Image, base: str, note: Note) -> str:
    """Build `image` unless our storage has it; returns its reference."""
    reference = f"{LOCAL_PREFIX}/{image.name}:{content_tag(image, base)}"
    if exists(reference):
        return reference
    with (
        exclusive(f"image-{image.name}", wait=True),
        hostpip.mounts(cache_root() / "pip") as pip,
        hostapt.mounts() as apt,
    ):
        if exists(reference):  # another cluster's start built it while we waited
            return reference
        note(f"building {image.name}")
        argv = ["bud", "--layers", "--quiet", "--isolation", "chroot", "--build-arg", f"BASE={base}", *pip, *apt]
        argv += ["-f", str(image.containerfile), "-t", reference, str(TREE / image.context)]
        run(buildah(*argv), log=cache_root() / "images.log")
        imageprune.remember(cache_root() / "images" / "history.json", reference, buildah("rmi"))
    return reference


def push(reference: str, registry: str, note: Note) -> str:
    """Copy an image from our storage to a registry, with the credentials the user is logged in by."""
    target = f"{registry.rstrip('/')}/{reference.removeprefix(LOCAL_PREFIX + '/')}"
    note(f"pushing {target}")
    run(buildah("push", "--quiet", reference, f"docker://{target}"))
    return target
