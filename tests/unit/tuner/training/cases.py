"""Small cases for the tests of the training model."""

from __future__ import annotations

from typing import Any

from controlplane.model.training import TrainingCase
from tuner.training.columns import Columns, columns
from tuner.training.constants import shipped
from tuner.training.question import parse_case

CLUSTER = {"gpu": "a100-sxm-80gb", "gpus": 64, "gpus_per_node": 8, "nic": "ib-hdr-200", "nics_per_node": 8}
MODEL = {"layers": 48, "hidden": 6144, "heads": 64, "vocab": 51200, "seq": 2048}
LINE: dict[str, Any] = {"model": MODEL, "cluster": CLUSTER, "tp": 8, "pp": 4, "dp": 2, "global_batch": 64}


def line(**changes: Any) -> dict[str, Any]:
    """The usual question with some fields changed; `model` and `cluster` are merged."""
    merged = {**LINE, **changes}
    for name in ("model", "cluster"):
        if isinstance(changes.get(name), dict):
            merged[name] = {**LINE[name], **changes[name]}
    return merged


def case(**changes: Any) -> TrainingCase:
    """The parsed question."""
    return parse_case(line(**changes))


def one(**changes: Any) -> Columns:
    """The question as columns of one configuration."""
    return columns([(case(**changes), 0)], tuple(shipped().accelerators))
