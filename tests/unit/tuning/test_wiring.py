"""The operator process as installed: with a database it makes jobs, without one it says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controlplane import operator_process
from controlplane.kube import ClusterAccess, KubeClient
from controlplane.operator_process import build
from controlplane.operator_tuning import add_tuning, desk_of
from controlplane.settings import OperatorSettings
from controlplane.testing.fake_planner import FakePlanner
from controlplane.tuning_desk import StoreDesk
from operators.runtime import EventRecorder, Manager
from tests.unit.tuning.lab import Lab


def nothing(_namespace: str, _name: str) -> None:
    """No deployment is there."""


class Nowhere:
    """Nothing can be said."""

    def pools(self) -> None:
        return None

    def has_account(self, _namespace: str, _name: str) -> None:
        return None


@pytest.mark.parametrize("with_database", [True, False])
async def test_the_whole_operator(lab: Lab, monkeypatch: pytest.MonkeyPatch, with_database: bool) -> None:
    url = "sqlite:///somewhere.db" if with_database else None
    desks = {"sqlite:///somewhere.db": lambda: lab.desk, None: None}
    monkeypatch.setattr(operator_process, "desk_of", lambda given, *_: desks[given])
    settings = OperatorSettings(leader_election=False, database_url=url)
    lab.create()
    async with KubeClient(ClusterAccess(lab.server.url), timeout_s=5.0) as client:
        parts = await build(client, settings, planner=FakePlanner({}))  # type: ignore[arg-type]
        task = asyncio.create_task(parts.manager.run())
        try:
            await lab.until(lambda: lab.reason == ("Running" if with_database else "NoDatabase"))
        finally:
            parts.manager.stop()
            await task
    assert len(lab.jobs if with_database else []) == with_database


def test_the_desk_follows_the_url(tmp_path: Path) -> None:
    assert desk_of(None, nothing, Nowhere()) is None
    make = desk_of(f"sqlite:///{tmp_path}/other.db", nothing, Nowhere())
    assert make is not None
    desk = make()
    assert isinstance(desk, StoreDesk)
    desk.database.close()


async def test_a_url_that_is_none_is_told_and_stops_nothing_else(lab: Lab) -> None:
    desk = desk_of("mysql://somewhere/trimtab", nothing, Nowhere())
    lab.create()
    async with KubeClient(ClusterAccess(lab.server.url), timeout_s=5.0) as client:
        manager = Manager(stop_grace_s=5.0)
        add_tuning(client, manager, desk, EventRecorder(client, "test"))
        task = asyncio.create_task(manager.run())
        await lab.until(lambda: lab.condition() == ("Unknown", "StoreUnreachable"))
        assert "mysql is not supported" in lab.status["message"]
        manager.stop()
        await task
