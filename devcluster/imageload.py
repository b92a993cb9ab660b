"""Carry images from our storage to the nodes: only the layers a node lacks travel."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from devcluster import imageprune
from devcluster.errors import CommandError, DevclusterError
from devcluster.images import buildah
from devcluster.nodes import Node
from devcluster.paths import cache_root
from devcluster.shell import run

Note = Callable[[str], None]
_MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024


def on_node(node: Node, reference: str) -> bool:
    """Whether a node's containerd knows the image."""
    return reference in run([*node.ctr(), "images", "list", "-q", f"name=={reference}"]).split()


def load(references: Iterable[str], nodes: list[Node], note: Note) -> str:
    """Import images from our storage into the nodes that lack them."""
    work = [(ref, [node for node in nodes if not on_node(node, ref)]) for ref in references]
    work = [(reference, lacking) for reference, lacking in work if lacking]
    if not work:
        return "already on every node"
    staging = cache_root() / "images"
    staging.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="export-", dir=staging) as folder:
        for reference, lacking in work:
            note(f"{reference.rpartition('/')[2]} into {len(lacking)} nodes")
            exported = Path(folder) / "image"
            # Uncompressed on purpose: both ends are this machine, and gzip would cost more than it saves.
            run(buildah("push", "--quiet", "--disable-compression", reference, f"dir:{exported}"))
            with ThreadPoolExecutor(max_workers=len(lacking)) as pool:
                list(pool.map(lambda node, ref=reference, at=exported: send(node, ref, at), lacking))
            shutil.rmtree(exported)
            for node in lacking:
                history = node.image_store / ".images.json"
                imageprune.remember(history, reference, [*node.ctr(), "images", "remove"])
    return f"imported {', '.join(reference.rpartition('/')[2] for reference, _ in work)}"


def send(node: Node, reference: str, exported: Path) -> None:
    """Stream an exported image into `ctr images import`, layers that the node has left out."""
    present = set(run([*node.ctr(), "content", "list", "-q"]).split())
    argv = [*node.ctr(), "images", "import", "-"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as importer:
        if importer.stdin is None or importer.stdout is None:
            raise DevclusterError("ctr started without pipes")
        with contextlib.suppress(BrokenPipeError):  # ctr ended early: its message and status follow
            write_layout(importer.stdin, reference, exported, present)
        with contextlib.suppress(BrokenPipeError):
            importer.stdin.close()
        output = importer.stdout.read().decode(errors="replace")
    if importer.returncode != 0:
        raise CommandError(argv, importer.returncode, output)


def write_layout(stream: IO[bytes], reference: str, exported: Path, present: Set[str]) -> None:
    """Write an OCI image layout as a tar: the export's manifest, its configuration and the layers not `present`."""
    raw = (exported / "manifest.json").read_bytes()
    if len(raw) > _MANIFEST_LIMIT_BYTES:
        raise DevclusterError(f"the manifest of {reference} is larger than {_MANIFEST_LIMIT_BYTES} bytes")
    manifest = json.loads(raw)
    manifest_digest = hashlib.sha256(raw).hexdigest()
    descriptor = {
        "mediaType": manifest["mediaType"],
        "digest": f"sha256:{manifest_digest}",
        "size": len(raw),
        "annotations": {"io.containerd.image.name": reference},
    }
    index = {"schemaVersion": 2, "manifests": [descriptor]}
    digests = [manifest["config"]["digest"]]
    digests += [layer["digest"] for layer in manifest["layers"] if layer["digest"] not in present]
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1024 * 1024) as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        _add(tar, f"blobs/sha256/{manifest_digest}", raw)
        for digest in dict.fromkeys(digests):
            value = digest.removeprefix("sha256:")
            tar.add(exported / value, arcname=f"blobs/sha256/{value}", recursive=False)


def load_archive(node: Node, archive: Path) -> None:
    """Import an image archive (docker-archive or oci-archive) into one node."""
    if not archive.is_file():
        raise DevclusterError(f"{archive} is not a file: give an image archive (docker-archive or oci-archive)")
    run([*node.ctr(), "images", "import", archive])


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
