"""A ServingDeployment in a manifest file, changed where it stands."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from controlplane.cli.files import whole_file
from controlplane.model.errors import InvalidSpec
from controlplane.tuning_apply import merged

if TYPE_CHECKING:
    from controlplane.tuning_apply import Document, Patch

_FILE_BYTES_MAX = 2**20


class Manifest:
    """One file with one ServingDeployment, perhaps among other objects. The changed file goes to `out`, or for want of
    one to standard output; comments are lost."""

    def __init__(self, path: Path, out: Path | None) -> None:
        self._path, self._out = path, out
        self._documents: list[Any] = []
        self._index = 0

    def read(self) -> Document:
        """Raises InvalidSpec."""
        name = str(self._path)
        try:
            if self._path.stat().st_size > _FILE_BYTES_MAX:
                raise InvalidSpec("file too large", field="--to", value=name, limit=f"{_FILE_BYTES_MAX} bytes")
            self._documents = list(yaml.safe_load_all(self._path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InvalidSpec(f"cannot be read: {error.strerror}", field="--to", value=name) from None
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidSpec(f"is not YAML: {str(error)[:200]}", field="--to", value=name) from None
        found = [i for i, one in enumerate(self._documents) if isinstance(one, dict) and one.get("kind") == "ServingDeployment"]  # fmt: skip
        if len(found) != 1:
            raise InvalidSpec(
                f"holds {len(found)} objects of kind ServingDeployment", field="--to", value=name, limit="1"
            )
        self._index = found[0]
        document: dict[str, Any] = self._documents[self._index]
        if not isinstance(document.get("spec"), dict) or not isinstance(document.get("metadata"), dict):
            raise InvalidSpec("the ServingDeployment has no metadata or no spec", field="--to", value=name)
        return copy.deepcopy(document)

    def write(self, patch: Patch, *, dry_run: bool) -> None:
        if dry_run:
            return
        self._documents[self._index] = merged(self._documents[self._index], patch.body)
        text = yaml.safe_dump_all(self._documents, sort_keys=False, allow_unicode=True)
        if self._out is None:
            click.echo(text, nl=False)
            return
        with whole_file(self._out) as partial:
            partial.write_text(text, encoding="utf-8")
