"""Step tables on disk: one file per engine case, readable without the measured tables' package.

Layout: a magic line, the length of a JSON header, the header, the arrays as little-endian float64. The header carries
shapes, provenance, the key and a SHA-256 of the arrays. A file that does not check out is rebuilt, never trusted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from controlplane import catalog
from controlplane.model.plans import Provenance
from tuner.serving.case import EngineCase
from tuner.serving.step.table import Floats, StepTable

_MAGIC = b"trimtab step table 1\n"
_MOST_HEADER_BYTES = 1 << 20
_MOST_VALUES = 1 << 22
_AXES: dict[str, tuple[str, ...]] = {  # values and the axes that give their shape
    "context_ms": ("context_tokens",),
    "decode_ms": ("decode_sequences",),
    "context_attention_ms": ("context_attention_batch", "context_attention_new", "context_attention_past"),
    "decode_attention_ms": ("decode_attention_sequences", "decode_attention_kv"),
}
_ARRAYS = tuple(name for values, axes in _AXES.items() for name in (*axes, values))


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """Why no measured tables answer a case: kept so that it is found out once, not on every start. Not `lasting` where
    the tables' package failed in a way it does not document: that may pass, so the next process asks again."""

    notes: tuple[str, ...]
    lasting: bool = True


def cache_folder() -> Path:
    """TRIMTAB_CACHE_DIR, else the user's cache folder (XDG base directory specification)."""
    configured = os.environ.get("TRIMTAB_CACHE_DIR")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "trimtab"


class TableStore:
    """Step tables in one folder. Many processes may use it at once: files appear whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.steps"

    def get(self, key: str) -> StepTable | NotMeasured | None:
        """What is stored. None: nothing, or nothing that can be trusted."""
        try:
            data = self.path(key).read_bytes()
        except OSError:
            return None
        try:
            return _decode(data, key)
        except (ValueError, KeyError, TypeError, struct.error, ValidationError):
            return None

    def put(self, key: str, found: StepTable | NotMeasured) -> None:
        """Keep it. A folder that cannot be written to is no error: the table is built again next time."""
        data = _encode(found, key)
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(name).replace(self.path(key))
            except OSError:
                with suppress(OSError):
                    Path(name).unlink()
                raise


def default_store() -> TableStore:
    """The store of this user."""
    return TableStore(cache_folder() / "step-tables")


def key_of(case: EngineCase, tables: str) -> str:
    """Name of a case's table. `tables` is the release of the measured tables, or says that there are none."""
    words = [_sources(), tables, _facts(case.model, case.accelerator)]
    words += [f"{name}={value}" for name, value in sorted(asdict(case).items())]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:40]


@cache
def _sources() -> str:
    """The code that makes tables, in one word: changed knots, bounds or rungs make new tables."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@cache
def _facts(model: str, accelerator: str) -> str:
    """The catalogue's numbers behind a case, in one word: a changed fact makes a new table."""
    facts = catalog.load()
    records: tuple[Any, ...] = (
        facts.model(model, field="model"),
        facts.accelerator(accelerator, field="accelerator"),
    )
    plain = [{k: v for k, v in asdict(record).items() if k not in ("sources", "notes")} for record in records]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def _encode(found: StepTable | NotMeasured, key: str) -> bytes:
    if isinstance(found, NotMeasured):
        header: dict[str, Any] = {"key": key, "not_measured": list(found.notes)}
        payload = b""
    else:
        arrays = {name: np.ascontiguousarray(getattr(found, name), dtype="<f8") for name in _ARRAYS}
        payload = b"".join(array.tobytes() for array in arrays.values())
        header = {
            "key": key,
            "shapes": {name: list(array.shape) for name, array in arrays.items()},
            "provenance": found.provenance.model_dump(mode="json"),
            "draft_tokens": found.draft_tokens,
        }
    header["sha256"] = hashlib.sha256(payload).hexdigest()
    text = json.dumps(header, sort_keys=True).encode()
    return _MAGIC + struct.pack("<I", len(text)) + text + payload


def _decode(data: bytes, key: str) -> StepTable | NotMeasured:
    start = len(_MAGIC) + 4
    if not data.startswith(_MAGIC) or len(data) < start:
        raise ValueError("not a step table")
    (length,) = struct.unpack("<I", data[len(_MAGIC) : start])
    if length > _MOST_HEADER_BYTES:
        raise ValueError("header too long")
    header = json.loads(data[start : start + length])
    payload = data[start + length :]
    if header["key"] != key or header["sha256"] != hashlib.sha256(payload).hexdigest():
        raise ValueError("another table, or damaged")
    if "not_measured" in header:
        return NotMeasured(tuple(str(note) for note in header["not_measured"]))
    shapes = {name: tuple(int(n) for n in header["shapes"][name]) for name in _ARRAYS}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if sum(sizes.values()) * 8 != len(payload) or sum(sizes.values()) > _MOST_VALUES:
        raise ValueError("shapes do not fit the values")
    arrays: dict[str, Floats] = {}
    offset = 0
    for name in _ARRAYS:
        arrays[name] = np.frombuffer(payload, "<f8", sizes[name], offset).astype(np.float64).reshape(shapes[name])
        offset += 8 * sizes[name]
    for values, axes in _AXES.items():
        if shapes[values] != tuple(sizes[axis] for axis in axes) or min(shapes[values]) < 2:
            raise ValueError(f"{values}: shape")
        if not np.isfinite(arrays[values]).all() or (arrays[values] < 0).any():
            raise ValueError(f"{values}: not a time")
        if any((np.diff(arrays[axis]) <= 0).any() for axis in axes):
            raise ValueError(f"{values}: knots out of order")
    return StepTable(
        **arrays,
        provenance=Provenance.model_validate(header["provenance"]),
        draft_tokens=int(header["draft_tokens"]),
    )
