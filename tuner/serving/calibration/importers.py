"""Readers of measured runs by format name. Others register under the entry point group `trimtab.serving_importers`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from controlplane.catalog import unknown
from controlplane.model.errors import InvalidSpec
from tuner.serving.calibration.measurement import Measurement

GROUP = "trimtab.serving_importers"
MAX_FILE_BYTES = 512 * 2**20  # detailed benchmark logs hold every token's time
MAX_ROWS = 1_000_000

_BUILT_IN = {
    "vllm-bench": "tuner.serving.calibration.import_vllm:read",
    "tuning": "tuner.serving.calibration.import_tuning:read",
    "silicon": "tuner.serving.calibration.import_tables:read_silicon",
    "csv": "tuner.serving.calibration.import_tables:read_csv",
    "jsonl": "tuner.serving.calibration.import_tables:read_jsonl",
}


class Importer(Protocol):
    """Reads one file of measured runs. `case` holds batch-interface fields that the file cannot know (system, tp, ...)
    or that the user corrects. Raises InvalidSpec or UnknownName naming file, line and field."""

    def __call__(self, path: Path, case: Mapping[str, Any]) -> list[Measurement]: ...


def known_importers() -> tuple[str, ...]:
    """Names of all formats, sorted. Raises InvalidSpec when two claim a name."""
    return tuple(sorted(_all()))


def find_importer(name: str) -> Importer:
    """The reader of a format. Raises UnknownName with the nearest known ones."""
    found = _all().get(name)
    if found is None:
        raise unknown("format of measured runs", name, _all(), field="format")
    module, _, attribute = found.partition(":")
    importer: Importer = getattr(importlib.import_module(module), attribute)
    return importer


def readable(path: Path) -> Path:
    """The path, when it is a file of bounded size. Raises InvalidSpec."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InvalidSpec(f"cannot be read: {error.strerror}", field=str(path)) from error
    if not path.is_file() or size > MAX_FILE_BYTES:
        raise InvalidSpec("must be a file", field=str(path), value=size, limit=f"{MAX_FILE_BYTES} bytes")
    return path


def _all() -> dict[str, str]:
    known = dict(_BUILT_IN)
    for point in entry_points(group=GROUP):
        if point.name in known:
            raise InvalidSpec("two importers claim one name", field=GROUP, value=point.name)
        known[point.name] = point.value
    return known
