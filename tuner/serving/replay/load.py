"""The compiled loop, loaded when it is first needed. Where its machine code is kept: docs/decisions/0013."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from controlplane.model.errors import Unsupported

HERE = Path(__file__).parent


def sources_digest() -> str:
    """Names a build. The compiler's cache looks at the file of the outermost function only; this looks at all."""
    digest = hashlib.sha256()
    for path in sorted((HERE / "compiled").glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where machine code is read and written: NUMBA_CACHE_DIR; beside the sources; the user's cache folder; a folder
    of this process alone (code built into a read-only image is copied there, anything else is compiled again)."""
    name = f"replay-{sources_digest()}"
    shipped = HERE / "__pycache__" / name
    own = os.environ.get("NUMBA_CACHE_DIR")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "trimtab" / name
    for folder in [Path(own) / name] if own else [shipped, home]:
        if usable(folder):
            return folder
        if folder is shipped and shipped.is_dir():
            break
    try:
        folder = Path(tempfile.mkdtemp(prefix="trimtab-replay-"))
    except OSError as error:
        raise Unsupported(
            "the replay finds no folder for its machine code", field="NUMBA_CACHE_DIR", value=own,
            hint="make /tmp or the folder that NUMBA_CACHE_DIR names writable",
        ) from error  # fmt: skip
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if shipped.is_dir():
        shutil.copytree(shipped, folder, dirs_exist_ok=True)
    return folder


def usable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # only code that this user, or root, put there: it is run
        return folder.stat().st_uid in (os.getuid(), 0) and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


@lru_cache(maxsize=1)
def compiled_replay() -> Callable[..., Any]:
    """`compiled.loop.replay`. The first call of a process reads the machine code, or compiles where there is none."""
    try:
        from numba import config  # noqa: PLC0415  (0.2 s: only where a replay is run)
    except ModuleNotFoundError as error:
        raise Unsupported(
            "the replay needs its compiler", field="tuner.serving.replay", hint="install trimtab[serving]"
        ) from error
    settings: Any = config
    if settings.CPU_NAME is None and settings.CPU_FEATURES is None:
        # code that every CPU of this architecture runs: an image is built on one machine and started on others
        settings.CPU_NAME, settings.CPU_FEATURES = "generic", ""
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(cache_folder())
    try:
        from tuner.serving.replay.compiled.loop import replay  # noqa: PLC0415
    finally:
        settings.CACHE_DIR = before
    return replay
