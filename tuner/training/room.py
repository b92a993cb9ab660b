"""How much of an accelerator's memory a plan may fill, and between what its need lies."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from controlplane.catalog import load
from controlplane.model.errors import Unsupported
from controlplane.model.training import TrainingPool
from tuner.training.columns import Array

MOST_RESERVE = 0.5  # of the memory: more is a typing error


def reserve_share(pool: TrainingPool) -> float:
    """Share of the memory that plans leave free, as the pool says or as the model's own errors ask for."""
    return _facts()["reserve_share"] if pool.memory_reserve is None else pool.memory_reserve


def total_bytes(pool: TrainingPool) -> float:
    """What the driver reports. Raises Unsupported where the catalogue does not know it."""
    total = load().accelerators[pool.gpu].plannable_memory_bytes
    if total is None:
        raise Unsupported("the catalogue does not know how much memory it has", field="gpu", value=pool.gpu)
    return float(total)


def usable_bytes(pool: TrainingPool) -> float:
    """What a plan may fill by the model's mean."""
    return total_bytes(pool) * (1.0 - reserve_share(pool))


def between(total: Array) -> tuple[Array, Array]:
    """What 90 % of measured runs of such a prediction take, bytes."""
    share = _facts()["share_90"]
    return total * (1.0 - share), total * (1.0 + share)


def reserve_basis() -> str:
    """Where the default share comes from."""
    return str(_document()["reserve_share"]["basis"])


@cache
def _document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "memory.json").read_bytes())
    return found


def _facts() -> dict[str, float]:
    return {name: float(_document()[name]["value"]) for name in ("reserve_share", "share_90")}
