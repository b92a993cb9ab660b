"""Which loader reads a file: decided by its columns, so that renamed or partial copies are found as well."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from controlplane.model.errors import InvalidSpec
from tuner.training.loaders import bridge, fsdp, golden, megatron, mixed, pipelines, readouts, scaling, vtrain
from tuner.training.loaders.rows import Table

Loader = Callable[[Path], Table]
# Columns that only this table has, and its loader; the first match counts.
_LOADERS: tuple[tuple[frozenset[str], Loader], ...] = (
    (frozenset({"Parameters (billion)", "iteration time (ms)"}), vtrain.multi_node),
    (frozenset({"iteration time (ms)", "pipeline parallelism"}), vtrain.single_node),
    (frozenset({"layers_per_virtual_stage", "iter_time_s_derived_eq3"}), megatron.ptdp),
    (frozenset({"iter_s_selective_plus_SP"}), megatron.korthikanti),
    (frozenset({"system", "throughput_ktok_s", "iter_time_s"}), megatron.megascale),
    (frozenset({"aggregate_pflops_digitised", "tflops_per_gpu"}), megatron.h100_strong),
    (frozenset({"heads", "hidden", "dp", "tflops_per_gpu", "mfu_pct", "model"}), megatron.h100_weak),
    (frozenset({"schedule", "samples_per_gpu_s", "memory_GB"}), pipelines.zero_bubble),
    (frozenset({"method", "peak_mem_GB", "vocab"}), pipelines.vocabulary),
    (frozenset({"Sharding Strategy", "Throughput (T/s)"}), fsdp.mpt),
    (frozenset({"TPS/GPU", "Techniques"}), fsdp.torchtitan),
    (frozenset({"mem_max_alloc_bytes", "tensor-model-parallel-size"}), golden.golden),
    (frozenset({"batch_per_dp", "tokens_per_batch", "tflops_per_gpu"}), scaling.llama3),
    (frozenset({"what", "iter_s", "mfu_pct"}), scaling.data_parallel),
    (frozenset({"case", "Megatron-LM <br> sequences/sec"}), scaling.v100),
    (frozenset({"Tokens / sec / GPU", "#-GPUs", "EP"}), bridge.bridge),
    (frozenset({"figure", "tflops_per_gpu_approx"}), readouts.ptdp_figures),
    (frozenset({"experiment", "fwd_ms", "combined_ms"}), readouts.layer_table),
    (frozenset({"system", "gpus", "mfu_pct"}), readouts.megascale_weak),
    (frozenset({"step", "mfu_pct"}), readouts.megascale_ablation),
    (frozenset({"layer_partition", "measured_s(inf=OOM/timeout)"}), mixed.amp),
    (frozenset({"layers_per_stage", "grad_sync_s", "max_mem_bytes"}), mixed.sailor),
)


def tables(folder: Path) -> tuple[list[tuple[str, Table]], list[str]]:
    """Tables of a folder by file name, and the CSV files no loader knows. Raises InvalidSpec without
    any file, or where none of them is such a table: with the columns that were looked for."""
    files = sorted(path for path in folder.glob("*.csv") if path.is_file())
    if not files:
        raise InvalidSpec("holds no CSV files", field="data", value=folder.name, hint="name a folder of tables")
    found, unknown = [], []
    for path in files:
        loader = _loader(path)
        if loader is None:
            unknown.append(path.name)
        else:
            found.append((path.name, loader(path)))
    if not found:
        raise InvalidSpec(
            f"no table of a known schema: {'; '.join(map(lacking, files[:3]))}", field="data", value=folder.name,
            limit="the schemas of docs/training-tables.md",
        )  # fmt: skip
    return found, unknown


def lacking(path: Path) -> str:
    """What a file would need to be a table of the schema that it comes nearest to."""
    header = _header(path)
    columns, loader = min(_LOADERS, key=lambda item: (len(item[0] - header), -len(item[0] & header)))
    missing = ", ".join(repr(name) for name in sorted(columns - header))
    return f"{path.name} has no column {missing}, by which a table of {loader.__name__} is known"


def _header(path: Path) -> set[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return set(next(csv.reader([file.readline(65536)]), []))


def _loader(path: Path) -> Loader | None:
    header = _header(path)
    return next((loader for columns, loader in _LOADERS if columns <= header), None)
