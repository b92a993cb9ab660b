"""Asks the planner for `auto` deployments, off the event loop, and keeps the plan in force for each.

Every decision is in `plan_due` and `plan_adopt`; here are the calls, one at a time, and what is known of each
deployment between two looks. A plan lives in the deployment's status: what is kept here is only what has not been
written yet, and may be lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from controlplane.catalog import Catalog
from controlplane.model.auto import PlannedCandidate, PlanStatus
from controlplane.model.errors import Refused, TrimtabError
from controlplane.model.plans import CalibrationUsed, ServingPlan
from controlplane.model.ports import PLANNER_DOWN, PlanningService
from controlplane.model.serving import ServingDeployment
from operators.pools.plannable import PoolRoom
from operators.runtime import Clock, Key
from operators.runtime.clock import Timer
from operators.serving.plan_adopt import adopt, has_room, plan_status, shape_text
from operators.serving.plan_due import Attempt, AutoSettings, due, revisions
from operators.serving.plan_request import Asked, ask, in_words_of_the_spec
from operators.serving.plan_runs import runs_on, settled
from operators.serving.reasons import Reason
from operators.serving.render import RenderSettings
from operators.serving.snapshot import Outlook
from operators.workloads.podview import PodView

log = logging.getLogger(__name__)

# Pools change with every pod; those who follow a plan are asked to look again at most this often, many of them less so: a
# look costs 2 ms.
_POOLS_LOOK_S = 10.0
_POOLS_LOOK_EACH_S = 0.1
_MESSAGE_MAX = 1_500


@dataclass(slots=True)
class _Known:
    """One deployment. `answer`: what the planner said to `asked`, until the next look takes it."""

    uid: str
    plan: PlanStatus | None = None
    last: Attempt | None = None
    task: asyncio.Task[None] | None = None
    asked: Asked | None = None
    answer: ServingPlan | TrimtabError | None = None


class Planning:
    """One per controller. `service` None: this installation has no planner, and says so."""

    def __init__(
        self,
        service: PlanningService | None,
        rooms: Callable[[], Sequence[PoolRoom]],
        calibration: Callable[[], CalibrationUsed | None] = lambda: None,
        *,
        catalog: Catalog,
        render: RenderSettings,
        wake: Callable[[Key], None],
        clock: Clock,
        settings: AutoSettings | None = None,
    ) -> None:
        self._service, self._rooms, self._calibration = service, rooms, calibration
        self._catalog, self._render = catalog, render
        self._wake, self._clock = wake, clock
        self._settings = settings or AutoSettings()
        self._known: dict[Key, _Known] = {}
        self._one_at_a_time = asyncio.Semaphore(1)
        self._timer: Timer | None = None

    def look(self, key: Key, deployment: ServingDeployment, pods: Iterable[PodView]) -> Outlook:
        """What is planned for a valid `auto` deployment now; starts the planner when it is due. Never raises."""
        now_s = self._clock.utc_now().timestamp()
        known = self._of(key, deployment)
        own = list(pods)
        runs = runs_on(known.plan, own, known.uid, self._catalog)
        if known.plan is not None:
            known.plan = settled(known.plan, runs, self._settings.margin)
        try:
            used = self._calibration()
            question = ask(deployment, self._rooms(), own, self._catalog, self._render)
            asked = replace(question, calibration=None if used is None else used.digest)
        except TrimtabError as error:
            return self._outlook(known, error, None)
        news = self._take_answer(known, deployment, asked, runs, now_s)
        runs = runs_on(known.plan, own, known.uid, self._catalog)
        room = has_room(known.plan, asked.request, self._catalog, runs)
        wanted = due(known.plan, asked, room, known.last, self._settings)
        again_s: float | None = None
        if wanted is not None and known.task is None:
            if self._service is None:
                missing = Refused(
                    "no planner is installed", field="spec.auto", hint="install the serving extra, or use spec.explicit"
                )
                return self._outlook(known, missing, None)
            if wanted.at_s <= now_s:
                log.info("%s: planning: %s", key, wanted.why)
                known.asked = asked
                known.task = asyncio.create_task(self._ask(key, known, asked), name=f"plan of {key}")
            else:
                again_s = wanted.at_s - now_s
        last = known.last
        failed = last.error if last is not None and last.asked[0] == asked.request_revision else None
        return replace(self._outlook(known, failed, asked), again_s=again_s, news=news)

    def plan_of(self, key: Key) -> PlanStatus | None:
        """The plan that the last look found in force."""
        known = self._known.get(key)
        return None if known is None else known.plan

    def forget(self, key: Key) -> None:
        """The deployment is gone, or plans no more."""
        known = self._known.pop(key, None)
        if known is not None and known.task is not None:
            known.task.cancel()

    def pools_changed(self) -> None:
        """Room appeared or went, or the calibration changed: those who follow a plan look again soon."""
        if self._known and self._timer is None:
            pause_s = max(_POOLS_LOOK_S, _POOLS_LOOK_EACH_S * len(self._known))
            self._timer = self._clock.call_later(pause_s, self._wake_all)

    async def run(self) -> None:
        """Until cancelled; then end what computes."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for known in self._known.values():
                if known.task is not None:
                    known.task.cancel()
            if self._service is not None:
                await self._service.close()

    # ---- inside

    def _of(self, key: Key, deployment: ServingDeployment) -> _Known:
        known = self._known.get(key)
        if known is not None and known.uid != deployment.metadata.uid:
            self.forget(key)
            known = None
        if known is None:
            known = self._known[key] = _Known(deployment.metadata.uid, deployment.status.plan)
        return known

    async def _ask(self, key: Key, known: _Known, asked: Asked) -> None:
        assert self._service is not None
        try:
            async with self._one_at_a_time:
                known.answer = await self._service.plan(asked.request)
        except TrimtabError as error:
            known.answer = error
        except Exception as error:
            log.exception("%s: the planner failed", key)
            known.answer = Refused(f"the planner failed: {type(error).__name__}: {error}", code="PlannerDied")
        finally:
            known.task = None
        self._wake(key)

    def _take_answer(
        self,
        known: _Known,
        deployment: ServingDeployment,
        now: Asked,
        runs: PlannedCandidate | None,
        now_s: float,
    ) -> str | None:
        """Turn an answer into the plan in force, or into the failure of the attempt. What was asked before the spec
        changed is forgotten: it may be about another model."""
        answer, asked = known.answer, known.asked
        if answer is None or asked is None:
            return None
        known.answer = known.asked = None
        if asked.request_revision != now.request_revision:
            return None
        error: TrimtabError
        try:
            if isinstance(answer, TrimtabError):
                raise in_words_of_the_spec(answer)
            new = plan_status(answer, asked, deployment, self._catalog, self._render, now_s)
        except TrimtabError as caught:
            error = caught
        else:
            before = known.plan
            room = has_room(before, asked.request, self._catalog, runs)
            known.plan, why = adopt(before, new, room, self._settings.margin, runs)
            known.last = Attempt(now_s, revisions(asked))
            shape = shape_text(known.plan.candidates[0])
            log.info("%s: %s (%s)", deployment.metadata.name, shape, why)
            changed = before is None or before.candidates[:1] != known.plan.candidates[:1]
            return f"{shape}: {why}" if changed else None
        again = known.last is not None and known.last.error is not None
        failures = known.last.failures + 1 if again and known.last is not None else 1
        known.last = Attempt(now_s, revisions(asked), failures, error, error.reason in PLANNER_DOWN)
        log.warning("%s: planning failed: %s", deployment.metadata.name, error)
        return None

    def _outlook(self, known: _Known, failed: TrimtabError | None, asked: Asked | None) -> Outlook:
        plan = known.plan
        stays = "running replicas stay as they are"
        if plan is not None:
            stays = f"the plan of {plan.planned_time.strftime('%Y-%m-%dT%H:%M:%SZ')} stays in force"
        if plan is not None and asked is not None and plan.request_revision == asked.request_revision:
            again = "" if failed is None else f"; weighing it again failed: {failed}"
            used = self._calibration()
            unusable = "" if used is None or used.problem is None else f"; the installed calibration: {used.problem}"
            return Outlook(plan, "True", Reason.PLANNED, f"{_summary(plan)}{again}{unusable}"[:_MESSAGE_MAX])
        if failed is not None:
            return Outlook(plan, "False", Reason.PLAN_FAILED, f"{failed}; {stays}"[:_MESSAGE_MAX])
        return Outlook(plan, "False", Reason.PLANNING, f"the planner is at work; {stays}")

    def _wake_all(self) -> None:
        self._timer = None
        for key in list(self._known):
            self._wake(key)


def _summary(plan: PlanStatus) -> str:
    """The plan in one sentence: what runs, what is expected of it."""
    best = plan.candidates[0]
    said = shape_text(best)
    if best.prediction is not None:
        ttft, tpot = best.prediction.ttft_ms, best.prediction.tpot_ms
        said += (
            f"; predicted TTFT p95 {ttft.p95:.0f} ms, TPOT p95 {tpot.p95:.1f} ms ({best.prediction.provenance.tier}; mean "
            f"TTFT within {ttft.lo:.0f} to {ttft.hi:.0f} ms)"
        )
    return f"{said}; {best.reason}"[:_MESSAGE_MAX]
