"""Small questions for the tests of the training planner."""

from __future__ import annotations

from typing import Any

from tuner.training.planner import PlanQuestion, read_question

MODEL = "layers=10,hidden=2048,heads=16,vocab=51200"
CLUSTER = {"gpu": "a100-sxm-40gb", "gpus": 16, "gpus_per_node": 8, "nic": "ib-hdr-200", "nics_per_node": 8}


def question(model: str = MODEL, fix: tuple[str, ...] = (), batch: int = 24, **cluster: Any) -> PlanQuestion:
    """A 0.6B model on two nodes, with changes."""
    return read_question(model, {**CLUSTER, **cluster}, global_batch=batch, seq=2048, fix=fix)
