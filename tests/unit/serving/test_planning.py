"""The planner is asked when it is due, one deployment at a time, and never holds a reconcile up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from controlplane.model.errors import Refused
from controlplane.testing.fake_clock import FakeClock
from operators.pools.plannable import PoolRoom
from operators.serving.plan_due import AutoSettings, share_of
from operators.serving.plan_turns import PASSED_MAX, Turns
from operators.serving.planning import Planning
from operators.workloads.podview import PodView
from tests.unit.serving.auto_cases import RENDER, ROOMS, auto, room, status
from tests.unit.serving.cases import CATALOG
from tests.unit.serving.simulation import L40S, UID
from tests.unit.serving.test_auto_operator import FakeService

LONGER = 1 + AutoSettings().spread * share_of(UID)
ROOM_PAUSE_S = 600 * LONGER


class Bench:
    """A `Planning` with everything around it in the test's hand."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.service = FakeService(**options)
        self.rooms: Sequence[PoolRoom] = ROOMS
        self.woken: list[str] = []
        self.seeds: list[str] = []
        self.planning = Planning(
            self.service,
            lambda: self.rooms,
            catalog=CATALOG,
            render=RENDER,
            wake=self.woken.append,
            clock=self.clock,
            settings=AutoSettings(),
            seeds=lambda: self.seeds,
        )

    def look(self, key: str = "prod/chat", **spec: Any) -> Any:
        return self.planning.look(key, auto(**spec), ())

    async def planned(self, **spec: Any) -> Any:
        """Look, let the planner answer, look again."""
        self.look(**spec)
        for _ in range(5):
            await asyncio.sleep(0)
        return self.look(**spec)


async def test_the_answer_comes_with_the_next_look() -> None:
    bench = Bench()
    assert (bench.look().reason, bench.woken) == ("Planning", [])
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.woken == ["prod/chat"]
    outlook = bench.look()
    assert (outlook.status, outlook.reason, outlook.again_s) == ("True", "Planned", None)
    assert outlook.news == "1 x h100-sxm-80gb sglang tp1 in pool big: first plan"
    assert "predicted TTFT p95 350 ms, TPOT p95 28.0 ms (roofline" in outlook.message
    assert bench.look().news is None


async def test_after_a_start_nobody_asks_before_all_had_their_first_look() -> None:
    bench = Bench()
    bench.seeds = ["prod/chat", "prod/other", "prod/explicit", "prod/wrong"]
    assert bench.look().again_s == 1.0
    bench.look("prod/other")
    bench.planning.forget("prod/explicit")
    await asyncio.sleep(0)
    assert bench.service.requests == []
    bench.planning.seen("prod/wrong")
    bench.look()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(bench.service.requests) == 1 and bench.look().reason == "Planned"


async def test_one_that_never_has_its_first_look_keeps_nobody_for_ever() -> None:
    bench = Bench()
    bench.seeds = ["prod/chat", "prod/stuck"]
    bench.look()
    await bench.clock.advance(31)
    bench.look()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(bench.service.requests) == 1


async def test_one_at_a_time_and_looks_never_wait() -> None:
    bench = Bench()
    bench.service.go.clear()
    assert [bench.look(f"prod/{name}").reason for name in "abc"] == ["Planning"] * 3
    await asyncio.sleep(0)
    assert len(bench.service.requests) == 1
    bench.service.go.set()
    for name in "abc":
        for _ in range(10):
            await asyncio.sleep(0)
        bench.look(f"prod/{name}")  # takes the answer, and the next one's turn begins
    assert len(bench.service.requests) == 3


async def test_free_room_is_looked_at_later_and_lost_room_sooner() -> None:
    bench = Bench()
    await bench.planned()
    bench.rooms = (room("big", free=7), ROOMS[1])
    assert bench.look().again_s == pytest.approx(ROOM_PAUSE_S)
    bench.rooms = (room("big", free=0), ROOMS[1])
    assert bench.look().again_s == 30
    await bench.clock.advance(31)
    outlook = await bench.planned()
    assert outlook.plan.candidates[0].choices[0].pool == "small"
    assert outlook.news.endswith("the running plan has no room any more")


async def test_a_fallback_that_serves_does_not_move_for_a_small_gain() -> None:
    bench = Bench(scores={"big": 101.0, "small": 100.0})
    plan = (await bench.planned()).plan
    fallback = plan.candidates[1].choices[0]
    pod = PodView(
        "chat-1", "prod", "pod", "1", "Running", owner_uid=UID, pool="small", accelerator=L40S,
        engine=fallback.choice.engine, units=fallback.choice.tensor_parallel, ready=True,
    )  # fmt: skip

    def look() -> Any:
        return bench.planning.look("prod/chat", auto(), (pod,))

    bench.rooms = (room("big", free=0), ROOMS[1])
    assert look().again_s == pytest.approx(ROOM_PAUSE_S)  # what serves has room: nothing is urgent
    bench.rooms = (room("big", free=16), room("small", L40S, free=7))
    await bench.clock.advance(ROOM_PAUSE_S + 1)
    look()
    for _ in range(5):
        await asyncio.sleep(0)
    outlook = look()
    assert len(bench.service.requests) == 2
    assert [item.choices[0].pool for item in outlook.plan.candidates] == ["small", "big"]
    assert outlook.news is None


async def test_news_of_pools_wakes_everybody_once_a_while() -> None:
    bench = Bench()
    await bench.planned()
    bench.woken.clear()
    for _ in range(100):
        bench.planning.pools_changed()
    await bench.clock.advance(9)
    assert bench.woken == []
    await bench.clock.advance(2)
    assert bench.woken == ["prod/chat"]


async def test_a_dead_planner_is_asked_again_and_a_plan_in_force_outlives_it() -> None:
    bench = Bench()
    bench.service.error = Refused("the planner's process ended with signal 9", code="PlannerDied")
    outlook = await bench.planned()
    assert (outlook.status, outlook.reason, outlook.again_s) == ("False", "PlanFailed", pytest.approx(30 * LONGER))
    bench.service.error = None
    await bench.clock.advance(38)
    assert (await bench.planned()).reason == "Planned"
    bench.service.error = Refused("the planner's process ended with signal 9", code="PlannerDied")
    bench.rooms = (room("big", free=0), ROOMS[1])
    await bench.clock.advance(60)
    outlook = await bench.planned()
    assert (outlook.status, outlook.reason) == ("True", "Planned")
    assert "weighing it again failed" in outlook.message


async def test_an_answer_to_what_was_asked_before_the_spec_changed_is_forgotten() -> None:
    bench = Bench()
    bench.service.go.clear()
    bench.look()
    await asyncio.sleep(0)
    other = {"model": {"name": "mistral-7b", "source": "pvc:models/other"}}
    bench.look(**other)
    bench.service.go.set()
    for _ in range(5):
        await asyncio.sleep(0)
    outlook = bench.look(**other)
    assert (outlook.plan, outlook.reason, outlook.again_s) == (None, "Planning", 1.0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (await bench.planned(**other)).plan.model == "mistral-7b"
    assert [request.model for request in bench.service.requests] == ["llama-3.1-8b", "mistral-7b"]


async def test_a_deployment_that_goes_takes_its_question_along() -> None:
    bench = Bench()
    bench.service.go.clear()
    bench.look()
    await asyncio.sleep(0)
    bench.planning.forget("prod/chat")
    await asyncio.sleep(0)
    bench.service.go.set()
    await asyncio.sleep(0)
    assert bench.woken == []


async def test_a_plan_that_was_lost_with_the_process_is_read_from_the_status() -> None:
    first = Bench()
    plan = (await first.planned()).plan
    second = Bench()
    outlook = second.planning.look("prod/chat", auto(status=plan), ())
    assert (outlook.status, outlook.plan) == ("True", plan)
    assert second.service.requests == []


async def test_a_pool_of_another_kind_changes_the_plan_only_for_a_gain() -> None:
    bench = Bench(scores={"big": 100.0, "small": 90.0, "new": 105.0})
    await bench.planned()
    bench.rooms = (*ROOMS, room("new", L40S))
    await bench.clock.advance(76)
    assert (await bench.planned()).plan.candidates[0].choices[0].pool == "big"
    assert len(bench.service.requests) == 2
    assert bench.look().again_s is None


class Pair:
    """Two deployments of one `Planning`, each with pods of its own."""

    def __init__(self, **options: Any) -> None:
        self.bench = Bench(**options)
        self.pods: dict[str, list[PodView]] = {"a": [], "b": []}

    def look(self, name: str) -> Any:
        wanted = auto()
        metadata = wanted.metadata.model_copy(update={"name": name, "uid": f"uid-{name}"})
        return self.bench.planning.look(
            f"prod/{name}", wanted.model_copy(update={"metadata": metadata}), self.pods[name]
        )

    async def settle(self) -> dict[str, Any]:
        """As the controller does: whoever is woken looks again."""
        found = {name: self.look(name) for name in self.pods}
        for _ in range(4):
            for _ in range(10):
                await asyncio.sleep(0)
            found = {name: self.look(name) for name in self.pods}
        return found

    def place(self, name: str) -> None:
        """The pods of the plan exist, and hold room."""
        planned = self.bench.planning.plan_of(f"prod/{name}").candidates[0].choices[0]  # type: ignore[union-attr]
        for number in range(planned.replicas):
            pod = PodView(
                f"{name}-{number}", "prod", "u", "1", "Running", owner_uid=f"uid-{name}", pool=planned.pool,
                accelerator=planned.choice.accelerator, engine=planned.choice.engine, units=1, ready=True,
            )  # fmt: skip
            self.pods[name].append(pod)
        self.bench.rooms = tuple(
            replace(room, free_units=room.free_units - planned.replicas) if room.facts.name == planned.pool else room
            for room in self.bench.rooms
        )


def _where(outlook: Any) -> str | None:
    return None if outlook.plan is None else outlook.plan.candidates[0].choices[0].pool


async def test_two_that_are_planned_at_once_do_not_count_on_the_same_room() -> None:
    pair = Pair(replicas=6)
    found = await pair.settle()
    assert {name: _where(outlook) for name, outlook in found.items()} == {"a": "big", "b": "small"}
    assert [pool.free for pool in pair.bench.service.requests[1].pools] == [2, 8]  # six of eight are set aside for a
    # Nothing flaps: not before the pods are there, not after, whoever looks first.
    for name in "ba":
        pair.place(name)
        await pair.bench.clock.advance(31)
        found = await pair.settle()
        assert {name: _where(outlook) for name, outlook in found.items()} == {"a": "big", "b": "small"}
    await pair.bench.clock.advance(3_600)
    found = await pair.settle()
    assert {name: _where(outlook) for name, outlook in found.items()} == {"a": "big", "b": "small"}


async def test_the_second_says_what_it_waits_for_when_there_is_no_other_pool() -> None:
    pair = Pair(replicas=6)
    pair.bench.rooms = (room("big"),)
    found = await pair.settle()
    assert (_where(found["a"]), found["b"].reason) == ("big", "PlanFailed")
    assert "set aside for other plans: 6 in pool big (prod/a)" in found["b"].message
    asked = len(pair.bench.service.requests)
    await pair.bench.clock.advance(60)
    await pair.settle()
    assert len(pair.bench.service.requests) == asked, "the same question has the same answer"
    # The first one's pods do not come within the time of its claim: nobody keeps clear of it any more.
    await pair.bench.clock.advance(600)
    assert _where((await pair.settle())["b"]) == "big"


async def test_what_is_urgent_goes_first_and_nobody_waits_for_ever() -> None:
    turns, order = Turns(), []

    async def take(name: str, urgent: bool) -> None:
        async with turns.turn(urgent):
            order.append(name)
            await asyncio.sleep(0)

    wanted = [("first", False), ("again", False), *((f"new{number}", True) for number in range(PASSED_MAX + 2))]
    tasks = [asyncio.create_task(take(name, urgent)) for name, urgent in wanted]
    await asyncio.sleep(0)
    assert turns.waiting == len(wanted) - 1
    tasks[3].cancel()  # whoever leaves the line takes nobody's turn along
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["first", "new0", "new2", "new3", "new4", "again", "new5"]
    assert turns.waiting == 0


async def test_who_leaves_the_line_as_a_turn_ends_takes_nobody_along() -> None:
    turns, order, done = Turns(), [], asyncio.Event()

    async def take(name: str) -> None:
        async with turns.turn(urgent=False):
            order.append(name)
            await done.wait()

    first, leaves, last = (asyncio.create_task(take(name)) for name in ("first", "leaves", "last"))
    await asyncio.sleep(0)
    done.set()  # the turn ends with the loop's next round,
    leaves.cancel()  # and whose turn it would be hears of its own end only after that
    ended = await asyncio.gather(first, leaves, last, return_exceptions=True)
    assert [ended[0], ended[2], order] == [None, None, ["first", "last"]]
    async with asyncio.timeout(1):
        await take("later")


async def test_a_plan_without_candidates_in_a_status_is_none() -> None:
    bench = Bench()
    stored = auto(status=status().model_copy(update={"candidates": []}))
    outlook = bench.planning.look("prod/chat", stored, ())
    assert (outlook.plan, outlook.reason) == (None, "Planning")
    bench.planning.forget("prod/chat")
