"""A one-layer image archive (docker-archive layout) made with the standard library alone."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile


def single_program_image(name: str, program: bytes, path: str) -> bytes:
    """An image `name` that holds one executable at `path` and runs it as nobody. The same input gives the same bytes."""
    layer = _tar({path.lstrip("/"): (program, 0o755)})
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": _architecture(),
            "os": "linux",
            "config": {"Entrypoint": [path], "User": "65534:65534"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        },
        sort_keys=True,
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}.tar"]}]).encode()
    members = {config_name: (config, 0o644), f"{digest}.tar": (layer, 0o644), "manifest.json": (manifest, 0o644)}
    return _tar(members)


def _tar(members: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (content, mode) in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = mode
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _architecture() -> str:
    """The machine's architecture in Go's words, which image configurations use."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
