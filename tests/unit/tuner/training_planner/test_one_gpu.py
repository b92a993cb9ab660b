"""One accelerator: what it holds with its optimizer elsewhere."""

from __future__ import annotations

import pytest

from controlplane.model.errors import Unsupported
from tests.unit.tuner.training_planner.questions import question
from tuner.training.constants import shipped
from tuner.training.planner.answer import Planner

_MODEL = "layers=28,hidden=1536,heads=12,vocab=151936"


def _fastest(*fix: str) -> tuple[str, int]:
    plan = Planner(shipped()).plan(question(_MODEL, fix, batch=32, gpu="rtx-4090", gpus=1)).best[0].plan
    return plan.optimizer_offload, plan.dp


def test_a_model_whose_optimizer_does_not_fit_has_it_in_host_memory() -> None:
    assert _fastest() == ("cpu", 1)


def test_offload_can_be_asked_for() -> None:
    assert _fastest("optimizer_offload=cpu") == ("cpu", 1)


def test_without_offload_it_does_not_fit() -> None:
    with pytest.raises(Unsupported, match="lacks"):
        _fastest("optimizer_offload=none")
