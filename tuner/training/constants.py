"""The model's constants: few, physical, read from `data/constants.json`, each with where it comes from.

Global: eight. Per accelerator class: three. Per link class: one. Nothing belongs to a table of measurements.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "data" / "constants.json"
GLOBAL_NAMES = (
    "launch_s",  # host time per kernel slot: what small layers wait for
    "collective_launch_s",  # start of one collective inside a node
    "p2p_sync_s",  # hand-over between two pipeline stages
    "gemm_saturation",  # matrix dimension at which half of the lost efficiency is back
    "softmax_traffic",  # bytes an unfused attention moves, as a multiple of 15 passes over the scores
    "contention",  # share of hidden traffic that slows the work it hides behind
    "reserved_bytes",  # driver context and communication buffers of one rank
    "fragmentation",  # share that the allocator holds beyond what tensors need
)
ACCELERATOR_NAMES = ("gemm", "memory", "attention")  # share of peak, of bandwidth, of peak inside flash kernels


@dataclass(frozen=True, slots=True)
class Constants:
    """Values by name. `accelerators` by class (`accelerator_class`), `links` by protocol."""

    shared: dict[str, float]
    accelerators: dict[str, dict[str, float]]
    links: dict[str, float]

    def replaced(self, values: dict[str, float]) -> Constants:
        """A copy with some values changed, keyed as `shared.launch_s`, `accelerators.ampere.gemm`, `links.nvlink`."""
        shared, links = dict(self.shared), dict(self.links)
        accelerators = {name: dict(record) for name, record in self.accelerators.items()}
        for key, value in values.items():
            group, _, rest = key.partition(".")
            if group == "shared":
                shared[rest] = value
            elif group == "links":
                links[rest] = value
            else:
                name, _, part = rest.partition(".")
                accelerators[name][part] = value
        return Constants(shared, accelerators, links)

    def value(self, key: str) -> float:
        """One value by the key that `replaced` takes."""
        group, _, rest = key.partition(".")
        if group == "shared":
            return self.shared[rest]
        if group == "links":
            return self.links[rest]
        name, _, part = rest.partition(".")
        return self.accelerators[name][part]


@lru_cache(maxsize=1)
def shipped() -> Constants:
    """The constants that ship with Trimtab."""
    return from_document(document())


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The whole file: values, their fits and the intervals over held-out groups."""
    found: dict[str, Any] = json.loads(_FILE.read_bytes())
    return found


def from_document(data: dict[str, Any]) -> Constants:
    """Constants of a document in the shipped file's form."""
    return Constants(
        {name: float(data["global"][name]["value"]) for name in GLOBAL_NAMES},
        {
            name: {part: float(record[part]["value"]) for part in ACCELERATOR_NAMES}
            for name, record in data["accelerators"].items()
        },
        {name: float(record["value"]) for name, record in data["links"].items()},
    )


def accelerator_class(architecture: str, kind: str = "gpu") -> str:
    """The class whose constants an accelerator uses: its architecture's where one is listed, else `other`."""
    name = architecture.lower().replace(" ", "-")
    return name if name in shipped().accelerators else "other"
