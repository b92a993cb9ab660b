"""Raw samples of the runs of a trial, as a Parquet file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, fields

from tuner.measure.loadgen.job import Sample

_MOST_BYTES = 16 * 2**20  # what an outcome may carry


def as_parquet(runs: Sequence[Sequence[Sample]]) -> bytes:
    """One row per request, `run` from 0. Empty where pyarrow is not installed or the file would be over 16 MiB."""
    try:
        import pyarrow  # noqa: PLC0415 - optional and heavy
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        return b""
    rows = [(number, asdict(sample)) for number, samples in enumerate(runs) for sample in samples]
    columns: dict[str, list[object]] = {"run": [number for number, _ in rows]}
    for field in fields(Sample):
        columns[field.name] = [row[field.name] for _, row in rows]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression="zstd")
    return file.getvalue() if file.tell() <= _MOST_BYTES else b""
