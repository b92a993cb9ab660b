"""What the parent needs to know of a model before it is loaded: format, context length, weight type.

Only the header of a GGUF file is read (its tensors are not), and of an OpenVINO IR folder only config.json.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from trimtab_engine.errors import UsageError

DEFAULT_CONTEXT_TOKENS: Final = 4096
_MAX_STRING_BYTES: Final = 1 << 20
_MAX_ENTRIES: Final = 10_000
_MAX_TENSORS: Final = 100_000
_MAX_ARRAY: Final = 4_000_000
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING: Final = 8
_ARRAY: Final = 9
# Bytes and elements of a block, by tensor type (ggml's numbering); other types are not size-checked.
_BLOCKS: Final = {0: (4, 1), 1: (2, 1), 2: (18, 32), 3: (20, 32), 8: (34, 32), 30: (2, 1)}
_FTYPE_NAMES: Final = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 32: "BF16"}


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`weights` is the file type's name, None when the format does not say."""

    path: Path
    format: str  # "gguf" or "ir"
    context_tokens: int
    weights: str | None


def inspect_model(path: Path) -> ModelInfo:
    """Look at a GGUF file or an OpenVINO IR folder. Raises UsageError when it is neither."""
    if path.is_dir():
        return _inspect_ir(path)
    if not path.is_file():
        raise UsageError(f"--model {path}: no such file or folder")
    try:
        with path.open("rb") as file:
            keys = _read_gguf_keys(file)
    except (struct.error, OSError) as error:
        raise UsageError(f"--model {path}: not a readable GGUF file ({error})") from error
    architecture = keys.get("general.architecture")
    context = keys.get(f"{architecture}.context_length")
    file_type = keys.get("general.file_type")
    return ModelInfo(
        path=path,
        format="gguf",
        context_tokens=context if isinstance(context, int) and context > 0 else DEFAULT_CONTEXT_TOKENS,
        weights=_FTYPE_NAMES.get(file_type, f"type {file_type}") if isinstance(file_type, int) else None,
    )


def _inspect_ir(path: Path) -> ModelInfo:
    if not (path / "openvino_model.xml").is_file():
        raise UsageError(
            f"--model {path}: the folder has no openvino_model.xml; give a GGUF file or an OpenVINO IR folder"
        )
    context: object = None
    try:
        config = json.loads((path / "config.json").read_text())
        context = config.get("max_position_embeddings") if isinstance(config, dict) else None
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise UsageError(f"--model {path}: config.json is not readable ({error})") from error
    tokens = context if isinstance(context, int) and context > 0 else DEFAULT_CONTEXT_TOKENS
    return ModelInfo(path=path, format="ir", context_tokens=tokens, weights=None)


def _read_gguf_keys(file: BinaryIO) -> dict[str, int | float | str]:
    """The scalar metadata. Raises struct.error when the file is not GGUF or ends before its last tensor does."""
    magic, version, tensors, entries = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        raise struct.error(f"magic {magic!r} version {version}; expected b'GGUF' version 2 or 3")
    if entries > _MAX_ENTRIES:
        raise struct.error(f"{entries} metadata entries; the limit is {_MAX_ENTRIES}")
    keys: dict[str, int | float | str] = {}
    for _ in range(entries):
        key = _read_string(file)
        (kind,) = struct.unpack("<I", file.read(4))
        if kind == _STRING:
            keys[key] = _read_string(file)
        elif kind == _ARRAY:
            _skip_array(file)
        else:
            keys[key] = _read_scalar(file, kind)
    alignment = keys.get("general.alignment", 32)
    _check_size(file, tensors, alignment if isinstance(alignment, int) and alignment > 0 else 32)
    return keys


def _check_size(file: BinaryIO, tensors: int, alignment: int) -> None:
    """A file cut short crashes the engine's reader, so it is refused here."""
    if tensors > _MAX_TENSORS:
        raise struct.error(f"{tensors} tensors; the limit is {_MAX_TENSORS}")
    needed = 0
    for _ in range(tensors):
        name = _read_string(file)
        (dimensions,) = struct.unpack("<I", file.read(4))
        if dimensions > 8:
            raise struct.error(f"tensor {name[:80]!r} has {dimensions} dimensions")
        sizes = struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))
        kind, offset = struct.unpack("<IQ", file.read(12))
        block_bytes, block_elements = _BLOCKS.get(kind, (0, 1))
        needed = max(needed, offset + math.prod(sizes) // block_elements * block_bytes)
    start = -(-file.tell() // alignment) * alignment
    size = file.seek(0, 2)
    if size < start + needed:
        raise struct.error(f"the file has {size} bytes and its tensors end at {start + needed}: it was cut short")


def _read_scalar(file: BinaryIO, kind: int) -> int | float:
    if kind not in _SCALARS:
        raise struct.error(f"unknown metadata type {kind}")
    layout = "<" + _SCALARS[kind]
    value: int | float = struct.unpack(layout, file.read(struct.calcsize(layout)))[0]
    return value


def _read_string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _MAX_STRING_BYTES:
        raise struct.error(f"string of {length} bytes; the limit is {_MAX_STRING_BYTES}")
    return file.read(length).decode(errors="replace")


def _skip_array(file: BinaryIO) -> None:
    kind, count = struct.unpack("<IQ", file.read(12))
    if count > _MAX_ARRAY:
        raise struct.error(f"array of {count} elements; the limit is {_MAX_ARRAY}")
    if kind == _STRING:
        for _ in range(count):
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_STRING_BYTES:
                raise struct.error(f"string of {length} bytes; the limit is {_MAX_STRING_BYTES}")
            file.seek(length, 1)
    elif kind in _SCALARS:
        file.seek(struct.calcsize("<" + _SCALARS[kind]) * count, 1)
    else:
        raise struct.error(f"array of type {kind} is not supported")
