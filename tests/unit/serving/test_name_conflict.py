"""Somebody else's object has the name of ours: what the conditions say, and that it is tried again."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from controlplane.model.actions import Delete, Requeue, WriteStatus
from operators.runtime import Expectations, Fence
from operators.serving.executor import Executor
from operators.serving.owned import BUDGETS, SERVICES, ServiceWire, service_row, shape_of
from operators.serving.plan import decide
from operators.serving.render import headless_service
from operators.serving.snapshot import Taken
from tests.unit.serving.simulation import H100, SETTINGS, UID, World, choice, deployment


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


def gang_service_of(uid: str) -> dict[str, Any]:
    made = headless_service(deployment(choice()))
    made["metadata"]["ownerReferences"][0]["uid"] = uid
    return made


@pytest.mark.parametrize(("owner", "goes"), [(UID, True), ("uid-of-another", False)])
def test_the_headless_service_of_a_gang_that_is_no_more_goes_when_it_is_ours(owner: str, goes: bool) -> None:
    made = World()
    made.add_nodes(H100, 2)
    made.apply(deployment(choice()))
    made.settle()
    made.owned[SERVICES, "chat-gang"] = shape_of(SERVICES, gang_service_of(owner))
    assert any(isinstance(action, Delete) for action in made.decide()) is goes


@pytest.mark.parametrize(("owner", "goes"), [(UID, True), ("uid-of-another", False)])
async def test_the_executor_deletes_only_what_the_deployment_owns(owner: str, goes: bool) -> None:
    row = service_row(msgspec.convert(gang_service_of(owner), ServiceWire))
    deleted: list[str] = []

    async def delete(resource: Any, name: str, *_: Any, **__: Any) -> bool:
        deleted.append(name)
        return True

    parts: Any = SimpleNamespace(delete=delete, store=SimpleNamespace(get=lambda _: row))
    executor = Executor(
        parts,
        Fence.always_open(),
        pods=parts,
        services=parts,
        budgets=parts,
        supply=parts,
        inventory_pod=lambda _: None,
        expectations=Expectations(),
    )
    outcome = await executor.run("prod/chat", UID, "prod", [Delete(SERVICES, "chat-gang")])
    assert outcome.error is None
    assert deleted == (["chat-gang"] if goes else [])
