"""How planning questions end is counted, whatever happens to them."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from controlplane.model.errors import Refused, Unsupported
from controlplane.planner_metrics import CountedPlanning, watch_line
from tests.unit.serving.auto_cases import asked
from tests.unit.serving.test_auto_operator import FakeService


async def test_each_end_has_its_counter_and_the_open_ones_are_told() -> None:
    registry, service = CollectorRegistry(), FakeService()
    counted, request = CountedPlanning(service, registry), asked().request

    def read(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert read("trimtab_planner_questions_total", kind="serving", outcome="died") == 0
    assert (await counted.plan(request)).best
    service.go.clear()
    waiting = asyncio.create_task(counted.plan(request))
    await asyncio.sleep(0)
    assert read("trimtab_planner_open") == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    service.go.set()
    for error in (
        Unsupported("nothing fits", code="PoolTooSmall"),
        Refused("too long", code="PlannerTimeout"),
        Refused("signal 9", code="PlannerDied"),
    ):
        service.error = error
        with pytest.raises(type(error)):
            await counted.plan(request)
    outcomes = ("answered", "cancelled", "refused", "timed-out", "died")
    ends = [read("trimtab_planner_questions_total", kind="serving", outcome=outcome) for outcome in outcomes]
    assert ends == [1] * 5
    assert (read("trimtab_planner_seconds_count", kind="serving"), read("trimtab_planner_open")) == (5, 0)
    await counted.close()
    assert service.closed


def test_the_line_is_read_when_asked() -> None:
    registry, line = CollectorRegistry(), [1, 2]
    watch_line(registry, lambda: len(line))
    line.append(3)
    assert registry.get_sample_value("trimtab_planner_waiting") == 3
