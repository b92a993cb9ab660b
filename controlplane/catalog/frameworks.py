"""Training frameworks: what each version can be started with, read from its sources (`data/frameworks.json`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from controlplane.catalog.hardware import Accelerator

_FILE = Path(__file__).parent / "data" / "frameworks.json"
THEORETICAL = "theoretical"  # the row of what papers describe and the model can cost


@dataclass(frozen=True, slots=True)
class TrainingFramework:
    """Words are those of a plan. `recompute` by attention kernel; `optimizer_offload` by place, with the ZeRO levels
    that have it; `sharding_groups`: none, hpz, three-level; `source`: where the limits were read."""

    framework: str
    version: str
    source: str
    runs_on: tuple[str, ...]  # vendors, or how the names of architectures begin
    schedules: tuple[str, ...]
    recompute: Mapping[str, tuple[str, ...]]
    partial_recompute: bool
    zero: tuple[int, ...]
    zero_without_pipeline: tuple[int, ...]
    sharding_groups: tuple[str, ...]
    cp_modes: tuple[str, ...]
    optimizer_offload: Mapping[str, tuple[int, ...]]
    offload_layers: Literal["never", "without-pipeline", "always"]
    vocab_parallel: tuple[str, ...]
    tp_beside_pipeline: bool
    cp_beside: Literal["all", "data-parallel"]  # what may go with context parallelism
    counts_ends_as_layers: bool  # embedding and loss may take a layer's place when layers are divided
    zero_beside_cp: tuple[int, ...]
    expert_tensor: Literal["any", "instead-of-ep"]  # tensor parallelism inside an expert
    tied_embeddings: bool
    experts: bool
    overlap_beside_zero_bubble: bool  # gradient traffic behind backward passes that zero-bubble schedules split
    sp: bool
    notes: tuple[str, ...]

    def runs(self, gpu: Accelerator) -> bool:
        """Whether it runs on an accelerator."""
        return any(word == gpu.vendor or gpu.architecture.startswith(word) for word in self.runs_on)


@cache
def training_frameworks() -> Mapping[str, TrainingFramework]:
    """All rows by name, `theoretical` included."""
    table: dict[str, dict[str, Any]] = json.loads(_FILE.read_bytes())
    return {name: _row(name, table[row.get("same_as", name)]) for name, row in table.items()}


def _row(name: str, row: Mapping[str, Any]) -> TrainingFramework:
    lists = ("runs_on", "schedules", "zero", "zero_without_pipeline", "sharding_groups", "cp_modes", "vocab_parallel",
             "zero_beside_cp", "notes")  # fmt: skip
    named: dict[str, Any] = {**row, **{part: tuple(row[part]) for part in lists}}
    for part in ("recompute", "optimizer_offload"):
        named[part] = {key: tuple(values) for key, values in row[part].items()}
    return TrainingFramework(framework=name, **named)
