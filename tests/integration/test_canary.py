"""Canaries through the whole operator process on the fake API server: readings, windows, status, events, a new operator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.model import labels
from controlplane.model.live import EngineCounters, EnginePod
from controlplane.operator_process import Operator, build
from operators.serving import revision
from tests.integration.test_operator import NS, PODS, SERVICES, SERVING, SETTINGS, Cluster, cluster, serving
from tests.unit.runtime.helpers import until

CANARY = {
    "hold": {"leastSeconds": 8, "mostSeconds": 40, "windowSeconds": 1},
    "verdict": {"notWorseThanPct": 15},
}
EVENTS = "events.k8s.io/v1/events"
# On a busy machine steps take long; a wait ends as soon as it is over.
PATIENCE_S = 60.0


class Engines:
    """Counters that grow with every reading as they do under even traffic; revisions in `slow` take longer."""

    def __init__(self) -> None:
        self.slow: dict[str, float] = {}
        self.counters: dict[str, EngineCounters] = {}
        self.rng = np.random.default_rng(5)
        self.readings = 0

    async def read(self, pods: Sequence[EnginePod]) -> Mapping[str, EngineCounters]:
        self.readings += 1
        return {pod.uid: self._grown(pod) for pod in pods}

    async def close(self) -> None:
        pass

    def _grown(self, pod: EnginePod) -> EngineCounters:
        name = pod.name.split("-")[1]
        before = self.counters.get(pod.uid, EngineCounters(0, 0, 0, 0, 0, 0))
        factor = self.slow.get(name, 1.0) * float(self.rng.normal(1, 0.02))
        self.counters[pod.uid] = grown = EngineCounters(
            (before.ttft_sum_s or 0) + 20 * 0.2 * factor,
            (before.ttft_count or 0) + 20,
            (before.tpot_sum_s or 0) + 800 * 0.02 * factor,
            (before.tpot_count or 0) + 800,
            (before.ended or 0) + 20,
            before.failed,
        )
        return grown


@asynccontextmanager
async def operator(made: Cluster, engines: Engines) -> AsyncIterator[Operator]:
    async with KubeClient(ClusterAccess(made.server.url), timeout_s=2.0) as client:
        parts = await build(client, SETTINGS, live=engines)
        running = asyncio.create_task(parts.manager.run())
        try:
            yield parts
        finally:
            parts.manager.stop()
            await running


def wanted(seqs: int, replicas: int) -> dict[str, Any]:
    made = serving("chat", replicas=replicas, rollout={"canary": CANARY, "drainSeconds": 0})
    made["spec"]["explicit"]["choices"][0]["knobs"] = {"maxNumSeqs": seqs}
    return made


def canary(made: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = made.status("chat").get("canary", {})
    return found


def revisions(made: Cluster) -> set[str]:
    found = made.storage.objects(PODS)
    return {pod["metadata"]["labels"][labels.REVISION] for pod in found if not pod["metadata"].get("deletionTimestamp")}


async def ends(made: Cluster) -> None:
    """The kubelet's part in a deletion."""
    while True:
        for pod in made.storage.objects(PODS):
            if pod["metadata"].get("deletionTimestamp"):
                with contextlib.suppress(Exception):
                    made.storage.delete(PODS, NS, pod["metadata"]["name"], {"gracePeriodSeconds": 0})
        await asyncio.sleep(0.02)


async def addresses(made: Cluster) -> None:
    """Pods have addresses."""
    while True:
        for pod in made.storage.objects(PODS):
            if pod.get("status") and "podIP" not in pod["status"]:
                made.storage.merge(
                    PODS, NS, pod["metadata"]["name"], {"status": {"podIP": "10.0.0.1"}}, status_only=True
                )
        await asyncio.sleep(0.005)


@asynccontextmanager
async def world() -> AsyncIterator[tuple[Cluster, Engines]]:
    async with cluster(nodes=4) as made:
        helpers = [asyncio.create_task(ends(made)), asyncio.create_task(addresses(made))]
        try:
            yield made, Engines()
        finally:
            for helper in helpers:
                helper.cancel()


async def at_rest(made: Cluster, replicas: int) -> str:
    made.storage.create(SERVING, NS, wanted(256, replicas))
    await until(lambda: "stable" in made.status("chat"), PATIENCE_S)
    (only,) = revisions(made)
    return only


def change(made: Cluster, seqs: int = 128) -> None:
    choices = wanted(seqs, 1)["spec"]["explicit"]
    made.storage.merge(SERVING, NS, "chat", {"spec": {"explicit": choices}}, status_only=False)


async def test_a_good_one_is_promoted_across_a_change_of_operators() -> None:
    async with world() as (made, engines):
        async with operator(made, engines):
            first = await at_rest(made, 2)
            change(made)
            await until(lambda: canary(made).get("windows", 0) >= 3, PATIENCE_S)
            watched = canary(made)["watchedSeconds"]
            assert len(revisions(made)) == 2
        async with operator(made, engines):
            await until(lambda: canary(made).get("phase") == "Promoted", PATIENCE_S)
            assert canary(made)["watchedSeconds"] >= max(8, watched), "what was watched before still counts"
            await until(lambda: made.reason("chat") == "AllReady" and first not in revisions(made), PATIENCE_S)
        said = [event["reason"] for event in made.storage.objects(EVENTS)]
        assert said.count("CanaryBegun") == said.count("CanaryPromoted") == 1
        assert canary(made)["reason"] in ("NotWorse", "Better")


async def test_a_change_in_the_minute_of_an_upgrade_is_tried_first() -> None:
    async with world() as (made, engines):
        async with operator(made, engines):
            first = await at_rest(made, 2)
        change(made)
        with patch.object(revision, "_RENDERING", 2):
            async with operator(made, engines):
                await until(lambda: canary(made).get("phase") == "Observing", PATIENCE_S)
                new = canary(made)["revision"]
                assert revisions(made) == {first, new}, "what is stable stands still meanwhile"
                assert len([name for name in made.pods("chat") if new in name]) == 1
                engines.slow[new] = 1.5
                await until(lambda: canary(made).get("phase") == "RolledBack", PATIENCE_S)
                await until(lambda: not revisions(made) & {first, new}, PATIENCE_S)
                await until(lambda: made.reason("chat") == "CanaryRolledBack", PATIENCE_S)


async def test_a_bad_one_goes_and_stays_away() -> None:
    async with world() as (made, engines), operator(made, engines):
        first = await at_rest(made, 2)
        change(made)
        await until(lambda: canary(made) != {}, PATIENCE_S)
        engines.slow[canary(made)["revision"]] = 1.5
        await until(lambda: canary(made).get("phase") == "RolledBack", PATIENCE_S)
        await until(lambda: revisions(made) == {first}, PATIENCE_S)
        await until(lambda: made.reason("chat") == "CanaryRolledBack", PATIENCE_S)
        assert canary(made)["ttftRatioPct"]["lo"] > 15
        made.storage.merge(SERVING, NS, "chat", {"spec": {"replicas": 3}}, status_only=False)
        await until(lambda: len(made.pods("chat")) == 3, PATIENCE_S)
        assert revisions(made) == {first}


async def test_one_replica_takes_turns_behind_the_service() -> None:
    async with world() as (made, engines), operator(made, engines):
        first = await at_rest(made, 1)
        change(made)
        selected: set[str | None] = set()

        def turned() -> bool:
            selected.add(made.storage.get(SERVICES, NS, "chat")["spec"]["selector"].get(labels.REVISION))
            return {first, canary(made).get("revision")} <= selected

        await until(turned, PATIENCE_S)
        assert canary(made)["mode"] == "InTurns"
        made.storage.delete(SERVING, NS, "chat", {})
        await until(lambda: not made.storage.objects(SERVING), PATIENCE_S)
