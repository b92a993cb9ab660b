import asyncio
from contextlib import asynccontextmanager

import pytest
from prometheus_client import generate_latest

from controlplane.kube import Conflict, ServerError
from controlplane.testing import FakeClock, settle
from operators.runtime import (
    DONE,
    Controller,
    Expectations,
    FenceLost,
    Result,
    RuntimeMetrics,
    TerminalError,
)
from tests.unit.runtime.helpers import until


@asynccontextmanager
async def running(controller: Controller):
    task = asyncio.create_task(controller.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_exception_is_retried_and_touches_no_other_key():
    clock = FakeClock()
    tries: dict[str, int] = {}

    async def reconcile(key: str) -> Result:
        tries[key] = tries.get(key, 0) + 1
        if key == "bad" and tries[key] < 4:
            raise ZeroDivisionError("a bug")
        return DONE

    controller = Controller("c", reconcile, workers=2, clock=clock)
    async with running(controller):
        controller.enqueue("bad")
        controller.enqueue("good")
        await settle()
        assert tries == {"bad": 1, "good": 1}
        await clock.advance(0.005 + 0.010 + 0.020)
        assert tries == {"bad": 4, "good": 1}
        assert controller.queue.failures("bad") == 0


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (Conflict(409, "Conflict", "changed"), True),
        (ServerError(500, "InternalError", "x"), True),
        (TimeoutError(), True),
        (TerminalError("the model does not exist"), False),
        (FenceLost("the lease was not renewed in time"), True),
    ],
)
async def test_which_errors_are_retried(error, retried):
    clock = FakeClock()
    tries = 0

    async def reconcile(key: str) -> Result:
        nonlocal tries
        tries += 1
        raise error

    controller = Controller("c", reconcile, clock=clock)
    async with running(controller):
        controller.enqueue("a")
        await clock.advance(0.01)
        assert (tries > 1) is retried


async def test_requeue_after_comes_back_on_time():
    clock = FakeClock()
    times: list[float] = []

    async def reconcile(key: str) -> Result:
        times.append(clock.monotonic_s())
        return Result(requeue_after_s=30.0)

    controller = Controller("c", reconcile, clock=clock)
    async with running(controller):
        controller.enqueue("a")
        await clock.advance(65.0)
        assert times == [0.0, 30.0, 60.0]


async def test_a_reconcile_that_never_ends_is_cut_off():
    async def reconcile(key: str) -> Result:
        await asyncio.Event().wait()
        return DONE

    metrics = RuntimeMetrics()
    controller = Controller("c", reconcile, timeout_s=0.01, metrics=metrics.controller("c"))
    async with running(controller):
        controller.enqueue("a")
        await until(lambda: controller.queue.failures("a") > 0)
    assert metrics.registry.get_sample_value("controller_runtime_reconcile_timeouts_total", {"controller": "c"}) >= 1


async def test_stop_lets_running_work_finish_and_drops_the_rest():
    entered, release = asyncio.Event(), asyncio.Event()
    finished: list[str] = []

    async def reconcile(key: str) -> Result:
        entered.set()
        await release.wait()
        finished.append(key)
        return DONE

    controller = Controller("c", reconcile, workers=1)
    task = asyncio.create_task(controller.run())
    controller.enqueue("a")
    controller.enqueue("b")
    await entered.wait()
    controller.enqueue("a")  # a change while it is worked on: the next leader's business
    stopping = asyncio.create_task(controller.stop(10.0))
    await settle()
    assert not stopping.done()
    release.set()
    assert await stopping is True
    await task
    assert finished == ["a"]


async def test_stop_gives_up_after_the_grace():
    async def reconcile(key: str) -> Result:
        await asyncio.Event().wait()
        return DONE

    controller = Controller("c", reconcile, workers=1)
    async with running(controller):
        controller.enqueue("a")
        await settle()
        assert await controller.stop(0.01) is False


async def test_a_standby_collects_no_keys_and_starts_from_the_seeds():
    done: list[str] = []

    async def reconcile(key: str) -> Result:
        done.append(key)
        return DONE

    controller = Controller("c", reconcile, seeds=lambda: ["x", "y"])
    controller.enqueue("long-gone")
    async with running(controller):
        await settle()
        controller.enqueue("z")
        await settle()
    assert done == ["x", "y", "z"]


async def test_metrics_carry_controller_runtimes_names():
    metrics = RuntimeMetrics()

    async def reconcile(key: str) -> Result:
        if key == "bad":
            raise ServerError(500, "InternalError", "x")
        return Result(60.0) if key == "later" else DONE

    controller = Controller("pools", reconcile, workers=3, metrics=metrics.controller("pools"))
    async with running(controller):
        for key in ("a", "bad", "later"):
            controller.enqueue(key)
        await until(lambda: controller.queue.failures("bad") > 1)
    text = generate_latest(metrics.registry).decode()
    for name in (
        'workqueue_depth{controller="pools",name="pools"}',
        "workqueue_adds_total",
        "workqueue_queue_duration_seconds_bucket",
        "workqueue_work_duration_seconds_bucket",
        "workqueue_unfinished_work_seconds",
        "workqueue_longest_running_processor_seconds",
        "workqueue_retries_total",
        'controller_runtime_reconcile_total{controller="pools",result="success"} 1.0',
        'controller_runtime_reconcile_total{controller="pools",result="requeue_after"} 1.0',
        "controller_runtime_reconcile_errors_total",
        "controller_runtime_terminal_reconcile_errors_total",
        "controller_runtime_reconcile_panics_total",
        "controller_runtime_reconcile_time_seconds_bucket",
        'controller_runtime_max_concurrent_reconciles{controller="pools"} 3.0',
        'controller_runtime_active_workers{controller="pools"} 0.0',
        "controller_runtime_reconcile_timeouts_total",
        "leader_election_master_status",
        "rest_client_requests_total",
        "rest_client_request_duration_seconds",
    ):
        assert name in text, name


class TestExpectations:
    def test_unseen_writes_hold_the_key_back(self):
        expectations = Expectations(FakeClock())
        expectations.expect_created("d", ["p1", "p2"])
        expectations.expect_deleted("d", ["uid-0"])
        assert not expectations.satisfied("d")
        assert expectations.satisfied("other")
        expectations.created("d", "p1")
        expectations.created("d", "p1")  # a duplicated event must not count for p2
        expectations.created("d", "stranger")
        expectations.deleted("d", "uid-0")
        assert not expectations.satisfied("d")
        expectations.created("d", "p2")
        assert expectations.satisfied("d")

    async def test_a_lost_event_blocks_only_until_the_time_out(self):
        clock = FakeClock()
        expectations = Expectations(clock, timeout_s=300.0)
        expectations.expect_created("d", ["p1"])
        await clock.advance(299.0)
        assert not expectations.satisfied("d")
        assert expectations.remaining_s("d") == pytest.approx(1.0)
        await clock.advance(1.0)
        assert expectations.satisfied("d")
        assert expectations.pending("d") == (frozenset(), frozenset())

    def test_an_owner_that_is_gone_is_forgotten(self):
        expectations = Expectations(FakeClock())
        expectations.expect_deleted("d", ["u"])
        assert expectations.pending("d") == (frozenset(), frozenset({"u"}))
        expectations.forget("d")
        assert expectations.satisfied("d")
