"""Somebody else's object has the name of ours: what the conditions say, and that it is tried again."""

from __future__ import annotations

import dataclasses

import pytest

from controlplane.model.actions import Requeue, WriteStatus
from operators.serving.owned import BUDGETS, SERVICES
from operators.serving.plan import decide
from operators.serving.snapshot import Taken
from tests.unit.serving.simulation import H100, SETTINGS, World, choice, deployment


@pytest.mark.parametrize(("resource", "ready"), [(SERVICES, "False"), (BUDGETS, "True")])
def test_only_a_missing_service_keeps_clients_away(resource: str, ready: str) -> None:
    made = World()
    made.add_nodes(H100, 2)
    made.apply(deployment(choice()))
    made.settle()
    snapshot = dataclasses.replace(made.snapshot(), taken=(Taken(resource, "prod/chat exists and is not ours"),))
    actions = decide(snapshot, SETTINGS, made.now_s)
    (status,) = [action.status for action in actions if isinstance(action, WriteStatus)]
    told = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    assert told == {"Ready": (ready, "NameConflict"), "Progressing": ("False", "NameConflict")}
    assert "prod/chat exists and is not ours" in status["conditions"][0]["message"]
    assert any(isinstance(action, Requeue) for action in actions), "nobody announces that the name is free again"
