"""A replay's requests as a table on disk, one row each."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from controlplane.model.errors import Unsupported
from tuner.serving.replay.result import Floats, Ints, ReplayResult

COLUMNS = (
    "request", "arrival_s", "isl", "osl", "scheduled_s", "first_token_s", "done_s", "ttft_ms", "tpot_ms", "e2e_ms",
    "replica", "decode_replica", "preemptions", "prefix_hit_tokens", "refused",
)  # fmt: skip
_DIGITS = 12  # significant: a microsecond within a day and more


def columns_of(result: ReplayResult) -> dict[str, Floats | Ints]:
    """Every column, in order of issue; NaN where a request was refused or an output of one token has no second."""
    return {
        "request": np.arange(len(result.isl), dtype=np.int64),
        "arrival_s": result.arrival_s,
        "isl": result.isl,
        "osl": result.osl,
        "scheduled_s": result.scheduled_s,
        "first_token_s": result.first_token_s,
        "done_s": result.done_s,
        "ttft_ms": result.ttft_ms,
        "tpot_ms": result.tpot_ms,
        "e2e_ms": result.e2e_ms,
        "replica": result.replica,
        "decode_replica": result.decode_replica,
        "preemptions": result.preemptions,
        "prefix_hit_tokens": result.prefix_hit_tokens,
        "refused": result.refused.astype(np.int64),
    }


def write_csv(result: ReplayResult, path: Path) -> None:
    """NaN is an empty cell."""
    columns = columns_of(result)
    texts = [_texts(values) for values in columns.values()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*texts, strict=True))


def write_parquet(result: ReplayResult, path: Path) -> None:
    """NaN is null. Raises Unsupported where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: PLC0415 - optional and heavy
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise Unsupported(
            "Parquet needs pyarrow, which is not installed", field="parquet", hint="pip install pyarrow, or write CSV"
        ) from None
    table = pyarrow.table(
        {name: pyarrow.array(values, from_pandas=True) for name, values in columns_of(result).items()}
    )
    pyarrow.parquet.write_table(table, path)


def _texts(values: Floats | Ints) -> list[str]:
    if values.dtype == np.int64:
        return [str(value) for value in values.tolist()]
    return ["" if math.isnan(value) else f"{value:.{_DIGITS}g}" for value in values.tolist()]
