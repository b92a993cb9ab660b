"""The controller between a fake API server and a real store."""

from __future__ import annotations

import asyncio
import secrets
import time

import pytest

from controlplane.loops.tuning import TuningDriver
from controlplane.loops.tuning_runs import run_job
from controlplane.model.errors import InvalidSpec
from controlplane.model.ports import SUSPENDED
from controlplane.model.tuning import JobState, Outcome, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_resource import TUNING_FINALIZER
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.steering import Steering
from controlplane.store.trials import Trials
from controlplane.testing.null_runner import NullRunner
from controlplane.tuning_jobs import Confirmation, sampler_of
from operators.tuning import controller
from tests.unit.tuning.cases import NAME, NAMESPACE, SPEC
from tests.unit.tuning.lab import FakeDesk, Lab, utc_now
from tuner.embedded import LocalQueue
from tuner.search.canonical import canonical_of
from tuner.work import Work


async def test_a_resource_becomes_a_job_and_says_how_far_it_is(lab: Lab) -> None:
    uid = lab.create()
    async with lab.operator():
        await lab.until(lambda: lab.reason == "Running")
        assert (lab.job.id, lab.job.tenant, lab.job.name, lab.job.budget) == (uid, NAMESPACE, NAME, 20)
        assert lab.object["metadata"]["finalizers"] == [TUNING_FINALIZER]
        lab.measure(uid, 0, 7.0)
        lab.measure(uid, 1, 9.0, ttft_ms=900.0)  # faster, and breaks the limit
        lab.measure(uid, 2, 8.0)
        await lab.until(lambda: lab.status["trials"] == "search 3/20")
        status = lab.status
        assert status["best"] == {
            "trial": 2, "setting": {"a": 3}, "metric": "value", "value": 8.0, "confirmed": False, "text": "8 value",
        }  # fmt: skip
        assert (status["jobId"], status["report"]) == (uid, f"/v1/tuning-jobs/{uid}/report")
        assert status["observedGeneration"] == 1
        await lab.until(lambda: {"Created", "Running", "BestFound"} <= set(lab.events))


async def test_nothing_is_written_while_nothing_happens(lab: Lab) -> None:
    lab.create()
    async with lab.operator():
        await lab.until(lambda: lab.reason == "Running" and "Running" in lab.events)
        before = len(lab.server.writes())
        await asyncio.sleep(0.3)
        assert len(lab.server.writes()) == before


async def test_suspend_and_resume(lab: Lab) -> None:
    lab.create(suspend=True)
    async with lab.operator():
        await lab.until(lambda: lab.reason == "Suspended")
        assert lab.jobs == []
        assert lab.condition("Suspended")[0] == "True"
        lab.change(suspend=False)
        await lab.until(lambda: lab.reason == "Running")
        lab.change(suspend=True)
        await lab.until(lambda: lab.reason == "Suspended" and lab.status["state"] == "Paused")
        assert (lab.job.state, lab.job.reason) == (JobState.PAUSED, SUSPENDED)
        lab.change(suspend=False)
        await lab.until(lambda: lab.reason == "Running")
        assert lab.job.state is JobState.RUNNING
        assert lab.condition("Suspended")[0] == "False"


async def test_a_pause_through_the_api_is_shown_and_left_alone(lab: Lab) -> None:
    uid = lab.create()
    async with lab.operator():
        await lab.until(lambda: lab.reason == "Running")
        Steering(lab.database).pause(uid, now=utc_now())
        await lab.until(lambda: lab.reason == "Paused")
        await asyncio.sleep(0.1)
        assert lab.job.state is JobState.PAUSED
        Steering(lab.database).resume(uid, now=utc_now())
        await lab.until(lambda: lab.reason == "Running")


async def test_a_job_that_ended_runs_again_with_a_larger_budget(lab: Lab) -> None:
    uid = lab.create()
    async with lab.operator():
        await lab.until(lambda: lab.reason == "Running")
        lab.measure(uid, 0, 7.0)
        decision = {
            "verdict": "better", "message": "7 % better",
            "best": {"number": 0, "setting": {"a": 1}, "objectives": [{"mean": 7.0, "lo": 6.5, "hi": 7.5, "runs": 5}],
                     "gainPct": {"mean": 7.0, "lo": 3.25, "hi": 11.0, "runs": 5}},
        }  # fmt: skip
        Steering(lab.database).decide(uid, decision, now=utc_now())
        Steering(lab.database).end(uid, JobState.DONE, reason="BudgetSpent", message="1 trial", now=utc_now())
        await lab.until(lambda: lab.condition() == ("True", "Done"))
        assert lab.status["gain"] == {
            "verdict": "better", "percent": 7.0, "lo": 3.25, "hi": 11.0, "confidence": 0.9, "text": "+7.0 % (+3.2 to +11.0)",
        }  # fmt: skip
        assert lab.status["best"]["confirmed"] and lab.status["best"]["lo"] == 6.5
        assert lab.status["endedAt"]
        lab.change(budget={"trials": 30})
        await lab.until(lambda: lab.reason == "Running")
        assert (lab.job.budget, lab.job.state) == (30, JobState.RUNNING)
        assert lab.condition() == ("False", "Running") and "endedAt" not in lab.status


async def test_deletion_waits_until_no_trial_is_under_way(lab: Lab) -> None:
    uid = lab.create()
    async with lab.operator():
        await lab.until(lambda: lab.reason == "Running")
        leased = lab.lease(uid, 0)
        lab.delete()
        await lab.until(lambda: lab.reason == "Deleting")
        assert lab.job.state is JobState.CANCELLED
        await asyncio.sleep(0.1)
        assert lab.there
        Trials(lab.database).tell(leased, Outcome(verdict=Verdict.INFRASTRUCTURE, reason="stopped"), now=utc_now())
        await lab.until(lambda: not lab.there)
        assert lab.jobs == []
        lab.create()  # the name is free
        await lab.until(lambda: lab.reason == "Running")
        assert lab.job.id != uid


async def test_a_name_that_a_job_of_the_api_has_is_told_until_it_is_free(lab: Lab) -> None:
    upgrade(lab.database)
    spec = TuningSpec.model_validate(SPEC)
    other = secrets.token_hex(8)
    Jobs(lab.database).create(other, tenant=NAMESPACE, name=NAME, spec=spec, now=utc_now())
    lab.create()
    async with lab.operator():
        await lab.until(lambda: lab.reason == "NameTaken")
        assert lab.condition("Failed")[0] == "True" and "jobId" not in lab.status
        assert NAME in lab.status["message"]
        Steering(lab.database).delete(other, now=utc_now())
        await lab.until(lambda: lab.reason == "Running")
        assert lab.condition("Failed")[0] == "False"


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_what_the_api_ended_is_told_and_not_made_anew(lab: Lab, how: str) -> None:
    uid = lab.create()
    async with lab.operator():
        await lab.until(lambda: lab.reason == "Running")
        steering = Steering(lab.database)
        (steering.cancel if how == "cancel" else steering.delete)(uid, now=utc_now())
        await lab.until(lambda: lab.reason == ("Cancelled" if how == "cancel" else "JobDeleted"))
        assert lab.status["state"] == "Cancelled" and lab.status["jobId"] == uid
        lab.change(budget={"trials": 50})
        lab.change(suspend=True)
        lab.change(suspend=False)
        await asyncio.sleep(0.2)
        assert [job.state for job in lab.jobs] == ([JobState.CANCELLED] if how == "cancel" else [])
        lab.delete()
        await lab.until(lambda: not lab.there)


async def test_a_job_deleted_before_the_status_told_of_it_is_not_made_anew(lab: Lab) -> None:
    uid = lab.create()
    lab.desk.open(uid, tenant=NAMESPACE, name=NAME, spec=TuningSpec.model_validate(SPEC))
    Steering(lab.database).delete(uid, now=utc_now())
    async with lab.operator():
        await lab.until(lambda: lab.reason == "JobDeleted")
        assert lab.jobs == []


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"target": {"kind": "command", "command": ["x", "{a}"]}}, "InvalidSpec", "spec.target.image"),
        ({"objectives": []}, "InvalidSpec", "spec.objectives"),
        ({"sampler": "guessing"}, "UnknownName", "spec.sampler"),
        ({"target": {"kind": "deployment", "name": "d", "namespace": "other"}}, "InvalidSpec", "spec.target.namespace"),
        ({"space": {"parameters": [{"kind": "int", "name": "b", "low": 1, "high": 2}]}}, "InvalidSpec", "{b}"),
    ],
)
async def test_a_spec_that_cannot_work_says_where(lab: Lab, spec: dict[str, object], reason: str, words: str) -> None:
    lab.create(**spec)
    async with lab.operator():
        await lab.until(lambda: lab.reason == reason)
        assert words in lab.status["message"]
        assert lab.condition("Failed")[0] == "True" and lab.status["state"] == "Failed"
        lab.delete()
        await lab.until(lambda: not lab.there)


async def test_a_deployment_that_comes_later_is_waited_for(lab: Lab) -> None:
    there = False

    def check(spec: TuningSpec, _: str) -> TuningSpec:
        if not there:
            raise InvalidSpec("there is no such ServingDeployment", field="target.name", value="chat")
        return spec

    lab.desk.check = check
    lab.create()
    async with lab.operator():
        await lab.until(lambda: lab.reason == "WaitingForDeployment")
        assert lab.condition("Failed")[0] == "False"
        there = True
        await lab.until(lambda: lab.reason == "Running")


async def test_a_store_that_is_away_takes_nothing_back(lab: Lab) -> None:
    uid = lab.create()
    desk = FakeDesk(lab.desk, 0, before=False)
    async with lab.operator(desk):
        await lab.until(lambda: lab.reason == "Running")
        lab.measure(uid, 0, 7.0)
        await lab.until(lambda: lab.status["trials"] == "search 1/20")
        desk.gone = True
        await lab.until(lambda: lab.condition() == ("Unknown", "StoreUnreachable"))
        assert lab.status["trials"] == "search 1/20" and lab.status["best"]["trial"] == 0 and lab.status["jobId"] == uid
        lab.change(suspend=True)
        lab.delete()
        await asyncio.sleep(0.1)
        assert lab.there  # its job may still run: it is not let go
        desk.gone = False
        await lab.until(lambda: not lab.there)
        assert lab.jobs == []


async def test_without_a_database_every_resource_says_so(lab: Lab) -> None:
    lab.create()
    async with lab.operator(None):
        await lab.until(lambda: lab.reason == "NoDatabase")
        assert "TRIMTAB_DATABASE_URL" in lab.status["message"]
        assert not lab.object["metadata"].get("finalizers")
        lab.delete()
        await lab.until(lambda: not lab.there)


async def test_two_operators_make_one_job(lab: Lab) -> None:
    async with lab.operator(), lab.operator():
        uid = lab.create()
        await lab.until(lambda: lab.reason == "Running")
        lab.change(budget={"trials": 25})
        lab.change(suspend=True)
        await lab.until(lambda: lab.reason == "Suspended")
        lab.change(suspend=False)
        await lab.until(lambda: lab.reason == "Running" and lab.job.budget == 25)
        assert lab.job.id == uid
        lab.delete()
        await lab.until(lambda: not lab.there)
        assert lab.jobs == []


async def walk(lab: Lab) -> None:
    """A life: made, suspended, resumed, extended, deleted."""
    lab.create()
    await lab.until(lambda: lab.reason == "Running")
    lab.change(suspend=True)
    await lab.until(lambda: lab.reason == "Suspended" and lab.job.state is JobState.PAUSED)
    lab.change(suspend=False, budget={"trials": 25})
    await lab.until(lambda: lab.reason == "Running" and lab.job.budget == 25)
    lab.delete()
    await lab.until(lambda: not lab.there)
    assert lab.jobs == []


async def test_a_life_asks_the_store_for_each_thing_once(lab: Lab) -> None:
    desk = FakeDesk(lab.desk, 0, before=False)
    async with lab.operator(desk):
        await walk(lab)
    assert sorted(desk.calls) == ["cancel", "delete", "extend", "open", "pause", "resume"]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", range(1, 7))
async def test_an_operator_that_dies_at_any_step_is_followed_by_another(lab: Lab, step: int, before: bool) -> None:
    loop, dead = asyncio.get_running_loop(), asyncio.Event()

    def die() -> None:
        first.fence.revoke()  # whatever it has still in mind is not written
        loop.call_soon_threadsafe(dead.set)

    async with lab.operator(FakeDesk(lab.desk, step, before, die)) as first:
        life = asyncio.create_task(walk(lab))
        await dead.wait()
        async with lab.operator():
            await life


def drive(lab: Lab, job: str) -> None:
    """Driver and worker of a laptop, with a runner that costs nothing, until the job has ended."""
    spec = Trials(lab.database).spec(job)
    queue = LocalQueue(lambda trial: work.on(trial), parallel=spec.parallel)
    work = Work(store=Trials(lab.database), runner=NullRunner(), queue=queue, owner="w", now=utc_now, lease_s=10)
    driver = TuningDriver(
        database=lab.database,
        queue=queue,
        sampler=sampler_of,
        canonical=canonical_of,
        now=utc_now,
        closing=Confirmation(),
    )
    try:
        run_job(driver, queue, job)
    finally:
        queue.close()


async def test_a_whole_job_costs_writes_by_time_and_not_by_trial(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "POLL_MOST_S"):
        monkeypatch.setattr(controller, name, 0.5)
    uid = lab.create(
        limits=[], budget={"trials": 60}, sampler="random", baseline={"a": 58}, measuring={"confirmTop": 1}
    )
    async with lab.operator():
        await lab.until(lambda: lab.reason == "Running")
        began_s = time.monotonic()
        await asyncio.to_thread(drive, lab, uid)
        await lab.until(lambda: lab.condition() == ("True", "Done"))
        status = lab.status
        assert status["counts"]["done"] == lab.job.counts.asked > 60
        assert status["best"]["confirmed"] and status["best"]["trial"] is not None
        assert status["gain"]["verdict"] == "better"
        beside = lab.job.counts.asked - lab.job.budget
        assert status["trials"] == f"search {lab.job.budget}/{lab.job.budget}, confirm {beside}"
        looks = (time.monotonic() - began_s) / 0.5
        assert len([path for _, path in lab.server.writes() if path.endswith("/status")]) <= looks + 5
