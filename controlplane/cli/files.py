"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controlplane.model.errors import InvalidSpec


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write to the path given; it takes the real name when the block ends well, and is gone when it does not.
    Raises InvalidSpec where the folder cannot be written to."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InvalidSpec(f"cannot be written: {error.strerror}", field=str(path)) from error
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except OSError as error:
        raise InvalidSpec(f"cannot be written: {error.strerror}", field=str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
