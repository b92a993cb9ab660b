"""Where things lie: the source tree, the cache that survives clusters, the state of one cluster."""

from __future__ import annotations

import os
import threading
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
TREE = PACKAGE.parent
STATE_ROOT = Path(os.environ.get("TRIMTAB_STATE", "/var/lib/trimtab"))


def cache_root() -> Path:
    """The build cache: outside the tree, shared by all clusters of this user, safe to delete when none runs."""
    return Path(os.environ.get("TRIMTAB_CACHE") or "~/.cache/trimtab").expanduser().absolute()


def write_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace `path` in one step, so that a crash leaves the old or the new content, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.draft")  # nodes start side by side
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
