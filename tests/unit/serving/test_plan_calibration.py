"""Another calibration: planned again when it is due, judged by the margin, and told in status and condition."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.model.auto import PlanStatus
from controlplane.model.errors import Refused
from controlplane.model.plans import CalibrationUsed
from controlplane.operator_process import build
from controlplane.settings import OperatorSettings
from controlplane.testing import FakeApiServer
from operators.serving.plan_adopt import adopt, plan_status
from operators.serving.plan_due import Attempt, AutoSettings, Due, due, revisions
from tests.unit.serving.auto_cases import RENDER, ROOMS, answer, asked, auto, room
from tests.unit.serving.cases import CATALOG
from tests.unit.serving.simulation import L40S, START_S
from tests.unit.serving.test_auto_operator import Cluster, FakeService
from tests.unit.serving.test_planning import LONGER, Bench

SETTINGS = AutoSettings()
SHIPPED = CalibrationUsed(name="sample", digest="aaaaaaaaaaaa", source="shipped")
MINE = CalibrationUsed(name="sample + runs.jsonl", digest="bbbbbbbbbbbb", source="installed")
BROKEN = SHIPPED.model_copy(update={"problem": "calibration.json: effects.0.knob: not a calibration"})


def planned(used: CalibrationUsed | None, *rooms: Any, **options: Any) -> PlanStatus:
    question = asked(None, *rooms)
    made = answer(question.request, **options).model_copy(update={"calibration": used})
    return plan_status(made, question, auto(), CATALOG, RENDER, START_S)


def test_the_status_says_what_its_numbers_were_made_with() -> None:
    assert planned(MINE).calibration == MINE
    stored = planned(MINE).model_dump(mode="json", by_alias=True)["calibration"]
    assert (stored["digest"], stored["source"]) == ("bbbbbbbbbbbb", "installed")


def test_another_calibration_is_a_reason_to_plan_again_as_late_as_other_pools() -> None:
    now = replace(asked(), calibration=MINE.digest)
    assert due(planned(MINE), now, True, None, SETTINGS) is None
    again = Due(START_S + SETTINGS.pools_pause_s, "the calibration changed")
    assert due(planned(SHIPPED), now, True, None, SETTINGS) == again
    assert due(planned(None), now, True, None, SETTINGS) == again, "a plan of before they said it"
    assert due(planned(SHIPPED), asked(), True, None, SETTINGS) is None, "nobody looks at the calibration"


def test_a_planner_that_does_not_say_what_it_used_is_asked_once() -> None:
    now = replace(asked(), calibration=MINE.digest)
    assert due(planned(None), now, True, Attempt(START_S, revisions(now)), SETTINGS) is None


def test_a_definite_no_may_be_another_answer_with_another_calibration() -> None:
    no = Attempt(START_S, revisions(asked()), 1, Refused("no"))
    assert due(None, asked(), False, no, SETTINGS) is None
    assert due(None, replace(asked(), calibration=MINE.digest), False, no, SETTINGS) is not None


def test_the_margin_holds_among_scores_of_one_calibration() -> None:
    running = planned(SHIPPED, scores={"big": 100.0, "small": 90.0})
    near = planned(MINE, scores={"big": 50.0, "small": 52.0})
    kept, why = adopt(running, near, True, 0.10)
    assert (kept.candidates[0].choices[0].pool, kept.calibration) == ("big", MINE), why
    assert kept.candidates[0].score == 50.0, "the prediction is the new one"
    far = planned(MINE, scores={"big": 50.0, "small": 60.0})
    assert adopt(running, far, True, 0.10)[0].candidates[0].choices[0].pool == "small"


def test_an_old_score_of_another_calibration_keeps_nothing_alive() -> None:
    running = planned(SHIPPED, room("big"), scores={"big": 100.0})
    new = planned(MINE, room("small", L40S), scores={"small": 60.0})
    adopted, why = adopt(running, new, True, 0.10)
    assert (adopted, why) == (new, "the calibration changed and the running deployment is not among its best")
    same = planned(SHIPPED, room("small", L40S), scores={"small": 60.0})
    assert adopt(running, same, True, 0.10)[0].candidates == running.candidates


class CalibratedBench(Bench):
    """One whose planner says which calibration it used."""

    def __init__(self) -> None:
        super().__init__()
        self.used: CalibrationUsed | None = SHIPPED
        self.planning._calibration = lambda: self.used
        plan = self.service.plan

        async def with_calibration(request: Any, **options: Any) -> Any:
            return (await plan(request, **options)).model_copy(update={"calibration": self.used})

        self.service.plan = with_calibration  # type: ignore[method-assign]


async def test_an_installed_calibration_is_planned_with_after_a_pause_and_once() -> None:
    bench = CalibratedBench()
    assert (await bench.planned()).plan.calibration == SHIPPED
    bench.used = MINE
    assert bench.look().again_s == pytest.approx(SETTINGS.pools_pause_s * LONGER)
    await bench.clock.advance(SETTINGS.pools_pause_s * LONGER + 1)
    outlook = await bench.planned()
    assert (outlook.plan.calibration, outlook.news) == (MINE, None), "the same deployment: nothing moved"
    assert bench.look().again_s is None
    assert len(bench.service.requests) == 2


async def test_one_that_cannot_be_used_is_told_and_plans_nothing_anew() -> None:
    bench = CalibratedBench()
    await bench.planned()
    bench.used = BROKEN
    outlook = bench.look()
    assert (outlook.status, outlook.reason, outlook.again_s) == ("True", "Planned", None)
    assert outlook.message.endswith("; the installed calibration: calibration.json: effects.0.knob: not a calibration")
    assert ROOMS and len(bench.service.requests) == 1
    bench.used = SHIPPED
    assert "installed" not in bench.look().message


async def test_the_operator_looks_at_what_it_was_told(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{}")  # under another name than planners read
    async with FakeApiServer() as server, KubeClient(ClusterAccess(server.url), timeout_s=5.0) as client:
        cluster = Cluster(server)
        cluster.add_pool("a")
        settings = OperatorSettings(leader_election=False, calibration=str(tmp_path))
        parts = await build(client, settings, planner=FakeService())
        task = asyncio.create_task(parts.manager.run())
        try:
            cluster.create()

            def message() -> str:
                found = {item["type"]: item["message"] for item in cluster.status.get("conditions", ())}
                return str(found.get("Planned", ""))

            await cluster.until(lambda: "has mine.json, but no calibration.json" in message())
        finally:
            parts.manager.stop()
            await task
