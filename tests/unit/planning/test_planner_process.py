"""The planner's process: answers, progress, errors with their fields; a hung or dead one is replaced."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.model.auto import Traffic
from controlplane.model.errors import Refused, Unsupported
from controlplane.model.plans import Lengths, PlannablePool, PlanRequest
from controlplane.model.training_plans import TrainingPlanRequest
from controlplane.planning import PlannerProcess

FAKE = "controlplane.testing.fake_planner:fake_planner"
REQUEST = PlanRequest(
    model="llama-3.1-8b",
    workload=Traffic(rate_per_second=2, input=Lengths(tokens=512), output=Lengths(tokens=128)),
    pools=[PlannablePool(name="a", accelerator="l40s", free=4)],
)


@pytest.fixture
async def made() -> AsyncIterator[list[PlannerProcess]]:
    processes: list[PlannerProcess] = []
    yield processes
    for process in processes:
        await process.close()


def start(made: list[PlannerProcess], options: dict[str, Any] | None = None, **settings: Any) -> PlannerProcess:
    made.append(PlannerProcess(FAKE, options, **settings))
    return made[-1]


async def test_answers_and_tells_progress(made: list[PlannerProcess]) -> None:
    planner = start(made)
    told: list[tuple[str, float]] = []
    plan = await planner.plan(REQUEST, progress=lambda what, share: told.append((what, share)))
    assert plan.best[0].roles[0].pool == "a"
    assert plan.request == PlanRequest.model_validate(REQUEST.model_dump())
    assert [share for _, share in told] == [0.0, pytest.approx(1 / 3), pytest.approx(2 / 3)]


async def test_an_error_keeps_its_kind_and_field(made: list[PlannerProcess]) -> None:
    planner = start(made, {"error": "no shape meets it"})
    with pytest.raises(Unsupported) as raised:
        await planner.plan(REQUEST)
    assert (raised.value.field, raised.value.limit, raised.value.hint) == ("slo.ttftMs", "more", "loosen it")
    assert planner.stopped == 0


async def test_a_hung_planner_is_stopped_and_replaced(made: list[PlannerProcess]) -> None:
    planner = start(made, {"hangS": 60}, timeout_s=0.8)
    with pytest.raises(Refused) as raised:
        await planner.plan(REQUEST)
    assert raised.value.reason == "PlannerTimeout"
    assert planner.stopped == 1
    planner._options["hangS"] = 0
    planner._timeout_s = 60.0
    assert (await planner.plan(REQUEST)).best


async def test_a_dead_planner_is_told_and_replaced(made: list[PlannerProcess]) -> None:
    planner = start(made, {"die": True})
    with pytest.raises(Refused, match="ended with 3") as raised:
        await planner.plan(REQUEST)
    assert raised.value.reason == "PlannerDied"
    planner._options["die"] = False
    assert (await planner.plan(REQUEST)).best


async def test_cancelling_ends_the_computation(made: list[PlannerProcess]) -> None:
    planner = start(made, {"hangS": 60})
    begun = asyncio.Event()
    task = asyncio.create_task(planner.plan(REQUEST, progress=lambda *_: begun.set()))
    await asyncio.wait_for(begun.wait(), 30)
    assert planner._process is not None
    pid = planner._process.pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_too_much_memory_is_an_error_not_an_end(made: list[PlannerProcess]) -> None:
    planner = start(made, memory_bytes=8 * 2**20)  # less than the interpreter's own imports need
    with pytest.raises(Refused) as raised:
        await planner.plan(REQUEST)
    assert raised.value.reason == "PlannerDied"


async def test_who_comes_after_a_greedy_one_gets_a_process_of_its_own(made: list[PlannerProcess]) -> None:
    planner = start(made, {"greedy": True})
    asked = [asyncio.create_task(planner.plan(REQUEST)) for _ in range(3)]
    for error in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(error, Refused)
        assert error.message == "planning needs more than 1024 MiB"
        assert error.reason == "PlannerDied"


async def test_a_planner_that_is_not_there_says_so(made: list[PlannerProcess]) -> None:
    made.append(PlannerProcess("controlplane.testing.fake_planner:nothing_of_the_kind"))
    with pytest.raises(Refused, match="nothing_of_the_kind"):
        await made[-1].plan(REQUEST)


async def test_an_idle_process_gives_its_memory_back(made: list[PlannerProcess]) -> None:
    planner = start(made, idle_s=0.05)
    await planner.plan(REQUEST)
    process = planner._process
    assert process is not None
    assert await asyncio.wait_for(process.wait(), 30) == 0
    assert (await planner.plan(REQUEST)).best


TRAINING = TrainingPlanRequest(
    model="layers=10,hidden=2048,heads=16,vocab=51200",
    seq=2048,
    global_batch=24,
    pools=[PlannablePool(name="a", accelerator="a100-sxm-40gb", free=16, nic="ib-hdr-200")],
    top=1,
)


async def test_one_process_answers_both_kinds_of_question(made: list[PlannerProcess]) -> None:
    planner = start(made)
    assert (await planner.plan(REQUEST)).best
    told: list[str] = []
    answer = await planner.plan_training(TRAINING, progress=lambda what, _: told.append(what))
    assert answer.request == TRAINING
    assert answer.best[0].plan.rank_map[0].ranks == 16
    assert told[0] == "reading the space"
    process = planner._process
    with pytest.raises(Unsupported) as raised:
        await planner.plan_training(TRAINING.model_copy(update={"model": "layers=80,hidden=16384,heads=128,vocab=9"}))
    assert raised.value.reason == "PlanDoesNotFit"
    assert (await planner.plan(REQUEST)).best
    assert planner._process is process
