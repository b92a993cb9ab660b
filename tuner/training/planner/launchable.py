"""What a framework and its version can be started with: the default space of the search, read from a table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from controlplane.model.errors import Unsupported

_FILE = Path(__file__).parents[1] / "data" / "launchable.json"


@dataclass(frozen=True, slots=True)
class Launchable:
    """`recompute` by attention kernel. `source`: where the limits were read."""

    framework: str
    version: str
    source: str
    schedules: tuple[str, ...]
    recompute: dict[str, tuple[str, ...]]
    zero: tuple[int, ...]


def launchable(framework: str) -> Launchable:
    """Limits of a framework. Raises Unsupported where no table says what it can launch."""
    table = _table()
    if framework not in table:
        raise Unsupported(
            "no table says what it can launch", field="framework", value=framework, limit=", ".join(sorted(table))
        )
    row = table[framework]
    modes = {name: tuple(modes) for name, modes in row["recompute"].items()}
    return Launchable(
        framework, row["version"], row["source"], tuple(row["schedules"]), modes, tuple(int(z) for z in row["zero"])
    )


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_FILE.read_bytes())
    return found
