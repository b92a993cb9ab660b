"""The operator killed on either side of every kind of write of a canary, on the fake API server: same end, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.model import labels
from controlplane.operator_process import build
from controlplane.testing.fake_api_server.http import Request
from tests.integration.test_canary import (
    EVENTS,
    Engines,
    at_rest,
    canary,
    change,
    operator,
    revisions,
    world,
)
from tests.integration.test_operator import NS, SERVICES, SETTINGS, Cluster
from tests.unit.runtime.helpers import until

_LIFE_S = 30.0


class Deaths:
    """Ends the operator at the first write of each kind: once before it takes effect, once after it has and before it is
    answered. What a dead one still has under way changes nothing."""

    def __init__(self, made: Cluster) -> None:
        self.done: list[tuple[str, str]] = []
        self.alive = False
        self.died = asyncio.Event()
        self._answer: Callable[[Request], tuple[int, dict[str, Any]]] = made.server._dispatch
        made.server._dispatch = self._dispatch  # type: ignore[method-assign]

    def _dispatch(self, request: Request) -> tuple[int, dict[str, Any]]:
        kind = kind_of(request)
        if kind is None:
            return self._answer(request)
        self._dies(kind, "before")
        answer = self._answer(request)
        self._dies(kind, "after")
        return answer

    def _dies(self, kind: str, side: str) -> None:
        if self.alive and (kind, side) in self.done:
            return
        if self.alive:
            self.done.append((kind, side))
            self.alive = False
            self.died.set()
        raise ConnectionResetError(f"the operator is dead {side} {kind}")


def kind_of(request: Request) -> str | None:
    """The step of a canary that a write belongs to."""
    path = request.path
    if request.method == "GET" or "/events" in path or "/reviews" in path:
        return None
    if path.endswith("/chat/status") and "servingdeployments" in path:
        found = json.loads(request.body).get("status", {})
        told = found.get("canary", {})
        seen = "window" if told.get("windows") else ""
        settled = "AllReady" if found.get("reason") == "AllReady" else ""
        return f"status {told.get('phase')} {seen} {settled}".rstrip()
    if "/pods" in path:
        return f"{request.method} pod"
    if path.endswith("/services/chat"):
        selector = json.loads(request.body)["spec"]["selector"]
        return f"service {'turn' if labels.REVISION in selector else 'all'}"
    return None


async def lives(made: Cluster, engines: Engines, deaths: Deaths, goal: Callable[[], bool]) -> None:
    """One operator after another, until the goal is reached."""
    while not goal():
        async with KubeClient(ClusterAccess(made.server.url), timeout_s=2.0) as client:
            parts = await build(client, SETTINGS, live=engines)
            running = asyncio.create_task(parts.manager.run())
            deaths.alive = True
            deaths.died.clear()
            with suppress(TimeoutError):
                await until(lambda: deaths.died.is_set() or goal(), _LIFE_S)
            # Whatever it still tries to write meets a closed connection.
            deaths.alive = False
            parts.manager.stop()
            await running


@pytest.mark.parametrize(("slowdown", "phase"), [(1.0, "Promoted"), (1.6, "RolledBack")])
async def test_killed_at_each_step_it_comes_to_the_same_end(slowdown: float, phase: str) -> None:
    async with world() as (made, engines):
        async with operator(made, engines):
            first = await at_rest(made, 2)
        deaths = Deaths(made)
        change(made)
        answering: list[int] = []

        def ended() -> bool:
            now = canary(made)
            if now.get("revision"):
                engines.slow[now["revision"]] = slowdown
            answering.append(len(made.pods("chat")))
            left = revisions(made)
            rolled = len(left) == 1 and (first in left) is (phase == "RolledBack")
            return rolled and now.get("phase") == phase and made.reason("chat") in ("AllReady", "CanaryRolledBack")

        async with asyncio.timeout(300):
            await lives(made, engines, deaths, ended)
        killed = {kind for kind, _ in deaths.done}
        assert {"status Starting", "status Observing", "status Observing window", f"status {phase} window"} <= killed
        assert {"POST pod", "DELETE pod"} <= killed
        assert {side for _, side in deaths.done} == {"before", "after"}
        assert min(answering) >= 2
        # An event may come twice, when the operator dies between it and the status; never two that contradict.
        said = {event["reason"] for event in made.storage.objects(EVENTS)} & {"CanaryPromoted", "CanaryRolledBack"}
        assert said == {f"Canary{phase}"}
        assert len(made.pods("chat")) == 2


async def test_killed_between_turns_and_taken_back_the_service_sends_to_all_again() -> None:
    async with world() as (made, engines):
        async with operator(made, engines):
            first = await at_rest(made, 1)
        deaths = Deaths(made)
        change(made)
        async with asyncio.timeout(300):
            turned = {("service turn", "before"), ("service turn", "after")}
            await lives(made, engines, deaths, lambda: turned <= set(deaths.done))
            change(made, 256)
            await lives(made, engines, deaths, lambda: made.reason("chat") == "AllReady" and revisions(made) == {first})
        assert ("service all", "after") in deaths.done
        assert labels.REVISION not in made.storage.get(SERVICES, NS, "chat")["spec"]["selector"]
        assert len(made.pods("chat")) == 1
