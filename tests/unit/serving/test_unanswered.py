"""A creation without an answer, looked for while its deployment goes."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from controlplane.kube import NotFound, Unreachable
from operators.runtime import Expectations, Fence
from operators.serving.executor import Executor


async def test_a_deployment_that_goes_while_its_pod_is_looked_for_is_no_mistake_of_ours() -> None:
    released: list[str] = []

    async def create(*_: Any) -> bytes:
        raise Unreachable(0, "Unreachable", "the connection broke")

    async def get(*_: Any) -> bytes:
        executor.forget("ns/chat")  # the deletion is seen while the request is under way
        raise NotFound(404, "NotFound", "no such pod")

    parts: Any = SimpleNamespace(
        create=create,
        client=SimpleNamespace(get=get),
        release=released.append,
        absorb=bytes,
        own_write=lambda _: nullcontext(),
    )
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
    action: Any = SimpleNamespace(
        manifest={"metadata": {"namespace": "ns", "name": "chat-0", "labels": {"trimtab.dev/revision": "r"}}}
    )
    with pytest.raises(Unreachable):
        await executor._create_pod("ns/chat", "uid", action, [])
    await executor.find_unanswered("ns/chat")
    assert released == ["ns/chat-0"]
