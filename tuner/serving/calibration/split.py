"""Which measured rows may be fitted on, and which only judge.

TEST holds whole exports, accelerators and models out, so that it asks what a user asks: something never measured.
FIT_CLEAN is the rest without rows that share a measurement or a configuration with TEST: repeats of the same run in
several exports would leak the answers. Fit, choose and tune on FIT_CLEAN only; score TEST once per release.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from tuner.serving.calibration.silicon import SiliconRow

HELD_EXPORT = "db-dump/2026-04-27"
HELD_SYSTEMS = frozenset({"b300_sxm", "gb300"})
HELD_MODELS = frozenset({"moonshotai/Kimi-K2.5", "Qwen/Qwen3.5-397B-A17B", "zhipuai/GLM-5"})


@dataclass(frozen=True, slots=True)
class Split:
    """`fit_clean` is a part of `fit`; `test` and `fit` together are all rows. File order is kept."""

    test: tuple[SiliconRow, ...]
    fit: tuple[SiliconRow, ...]
    fit_clean: tuple[SiliconRow, ...]


def is_test(row: SiliconRow) -> bool:
    """Whether the row's export, accelerator or model is held out."""
    return row.export == HELD_EXPORT or row.system in HELD_SYSTEMS or row.model in HELD_MODELS


def split(rows: Iterable[SiliconRow]) -> Split:
    """Pass the whole file: what is clean depends on all of TEST."""
    test: list[SiliconRow] = []
    fit: list[SiliconRow] = []
    for row in rows:
        (test if is_test(row) else fit).append(row)
    values, groups = {row.value_key for row in test}, {row.group_key for row in test}
    clean = [row for row in fit if row.value_key not in values and row.group_key not in groups]
    return Split(tuple(test), tuple(fit), tuple(clean))


def folds(rows: Iterable[SiliconRow], count: int = 5) -> list[int]:
    """The fold of each row. Rows that share a measurement or a configuration, also by way of others, share a fold.

    The fold is a checksum of the set's smallest name, so it depends on neither row order nor the process.
    """
    items = list(rows)
    parent = list(range(len(items)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    seen: dict[object, int] = {}
    for index, row in enumerate(items):
        for key in (("value", row.value_key), ("group", row.group_key)):
            other = seen.setdefault(key, index)
            parent[root(index)] = root(other)
    names: dict[int, str] = {}
    for index, row in enumerate(items):
        name = repr(row.group_key)
        names[root(index)] = min(names.get(root(index), name), name)
    return [zlib.crc32(names[root(index)].encode()) % count for index in range(len(items))]
