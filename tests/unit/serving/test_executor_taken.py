"""Objects whose names are somebody else's: told in one order, whatever answer comes first."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from controlplane.kube import POD_DISRUPTION_BUDGETS, PODS, SERVICES, Conflict, Resource
from controlplane.model.actions import Apply
from operators.runtime import Expectations, Fence
from operators.serving.executor import Executor
from operators.serving.owned import BUDGETS
from operators.serving.owned import SERVICES as SERVICE_PLURAL


class FakeInformer:
    """An empty cache."""

    class store:
        @staticmethod
        def get(_key: str) -> None:
            return None

    def __init__(self, resource: Resource) -> None:
        self.resource = resource

    def own_write(self, _key: str) -> AbstractContextManager[None]:
        return nullcontext()


class FakeWriter:
    """Every apply conflicts, that of `slow` last."""

    def __init__(self, slow: Resource) -> None:
        self._slow = slow
        self._others = asyncio.Event()

    async def apply(self, resource: Resource, _manifest: Any, *, force: bool) -> bytes:
        assert not force
        if resource is self._slow:
            await self._others.wait()
        self._others.set()
        raise Conflict(409, "Conflict", "conflict with kubectl: .spec.selector", what="PATCH")


@pytest.mark.parametrize("slow", [SERVICES, POD_DISRUPTION_BUDGETS])
async def test_the_order_does_not_hang_on_the_answers(slow: Resource) -> None:
    parts: Any = {
        "pods": FakeInformer(PODS),
        "services": FakeInformer(SERVICES),
        "budgets": FakeInformer(POD_DISRUPTION_BUDGETS),
        "supply": None,
        "inventory_pod": None,
        "expectations": Expectations(),
    }
    writer: Any = FakeWriter(slow)
    executor = Executor(writer, Fence.always_open(), **parts)
    manifest = {"metadata": {"name": "chat", "namespace": "prod"}, "spec": {}}
    actions = [Apply(SERVICE_PLURAL, manifest), Apply(BUDGETS, manifest)]
    outcome = await executor.run("prod/chat", "uid", "prod", actions)
    assert outcome.error is None
    assert [taken.resource for taken in outcome.taken] == [BUDGETS, SERVICE_PLURAL]
    assert all("prod/chat exists and is not ours" in taken.message for taken in outcome.taken)
