"""Asks the planner for `auto` deployments, off the event loop, and keeps the plan in force for each.

Every decision is in `plan_due` and `plan_adopt`; here are the calls, one at a time, and what is known of each
deployment between two looks. A plan lives in the deployment's status: what is kept here is only what has not been
written yet, and may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from controlplane.catalog import Catalog
from controlplane.model.auto import PlannedCandidate, PlanStatus
from controlplane.model.errors import Refused, TrimtabError
from controlplane.model.plans import CalibrationUsed, ServingPlan
from controlplane.model.ports import PLANNER_DOWN, PlanningService
from controlplane.model.serving import ServingDeployment
from operators.pools.plannable import Pods, PoolRoom
from operators.runtime import Clock, Key
from operators.runtime.clock import Timer
from operators.serving.plan_adopt import adopt, has_room, plan_status, where
from operators.serving.plan_claims import claims_of, together, told
from operators.serving.plan_due import Attempt, AutoSettings, Due, due, revisions
from operators.serving.plan_first_looks import FirstLooks
from operators.serving.plan_outlook import outlook
from operators.serving.plan_request import Asked, ask, in_words_of_the_spec
from operators.serving.plan_runs import runs_on, settled
from operators.serving.plan_turns import Turns
from operators.serving.plan_words import shape_text
from operators.serving.render import RenderSettings
from operators.serving.snapshot import Outlook
from operators.workloads.podview import PodView

log = logging.getLogger(__name__)

# Pools change with every pod; those who follow a plan are asked to look again at most this often, many of them less so: a
# look costs 2 ms.
_POOLS_LOOK_S = 10.0
_POOLS_LOOK_EACH_S = 0.1
# An answer is taken by the deployment's next look, which the workers may be late with; others do not wait for ever.
_TAKEN_WITHIN_S = 5.0
_AGAIN_S = 1.0


@dataclass(slots=True)
class _Known:
    """One deployment as last looked at. `claim_s`: since when its plan counts on its room. `answer`: what the planner said
    to `asked`, until the next look takes it, which sets `taken`."""

    deployment: ServingDeployment
    own: list[PodView] = field(default_factory=list)
    plan: PlanStatus | None = None
    claim_s: float = 0.0
    last: Attempt | None = None
    task: asyncio.Task[None] | None = None
    asked: Asked | None = None
    answer: ServingPlan | TrimtabError | None = None
    taken: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def uid(self) -> str:
        return self.deployment.metadata.uid


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
        seeds: Callable[[], Iterable[Key]] = tuple,
    ) -> None:
        self._first_looks = FirstLooks(seeds)
        self._service, self._rooms, self._calibration = service, rooms, calibration
        self._catalog, self._render = catalog, render
        self._wake, self._clock = wake, clock
        self._settings = settings or AutoSettings()
        self._known: dict[Key, _Known] = {}
        self._turns = Turns()
        self._timer: Timer | None = None

    def look(self, key: Key, deployment: ServingDeployment, pods: Iterable[PodView]) -> Outlook:
        """What is planned for a valid `auto` deployment now; starts the planner when it is due. Never raises."""
        now_s = self._clock.utc_now().timestamp()
        self.seen(key)
        known = self._of(key, deployment)
        known.deployment, known.own = deployment, [pod for pod in pods if pod.owner_uid == known.uid]
        own = known.own
        runs = runs_on(known.plan, own, known.uid, self._catalog)
        if known.plan is not None:
            known.plan = settled(known.plan, runs, self._settings.margin)
        try:
            asked = self._question(key, known)
        except TrimtabError as error:
            return self._outlook(known, error, None)
        news = self._take_answer(key, known, asked, runs, now_s)
        runs = runs_on(known.plan, own, known.uid, self._catalog)
        wanted = self._due(key, known, asked, runs)
        again_s: float | None = None
        asking = known.task is not None and not known.taken.is_set()
        if wanted is not None and not asking:
            if self._service is None:
                missing = Refused(
                    "no planner is installed", field="spec.auto", hint="install the serving extra, or use spec.explicit"
                )
                return self._outlook(known, missing, None)
            if wanted.at_s > now_s:
                again_s = wanted.at_s - now_s
            elif self._first_looks.outstanding(now_s):
                again_s = _AGAIN_S  # after a start: what the plans of others count on is not all known yet
            elif known.task is None:
                log.info("%s: planning: %s", key, wanted.why)
                known.taken.clear()
                known.task = asyncio.create_task(self._ask(key, known, wanted.urgent), name=f"plan of {key}")
            else:
                again_s = _AGAIN_S  # the turn whose answer was just taken is about to end
        last = known.last
        failed = last.error if last is not None and last.asked[0] == asked.request_revision else None
        aside = (
            "" if failed is None else told(self._claims(key), {room.facts.name: room.scale for room in self._rooms()})
        )
        return replace(self._outlook(known, failed, asked, aside), again_s=again_s, news=news)

    def plan_of(self, key: Key) -> PlanStatus | None:
        """The plan that the last look found in force."""
        known = self._known.get(key)
        return None if known is None else known.plan

    @property
    def waiting(self) -> int:
        """Questions that wait for their turn."""
        return self._turns.waiting

    def seen(self, key: Key) -> None:
        """It had its first look since the start."""
        self._first_looks.seen(key, self._clock.utc_now().timestamp())

    def forget(self, key: Key) -> None:
        """The deployment is gone, or plans no more."""
        self.seen(key)
        known = self._known.pop(key, None)
        if known is None:
            return
        if known.task is not None:
            known.task.cancel()
        if known.plan is not None:
            self.pools_changed()  # what it counted on is there for others

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
            plan = deployment.status.plan
            # One without candidates is not of our making: there is nothing in it to follow.
            known = self._known[key] = _Known(deployment, plan=plan if plan is not None and plan.candidates else None)
            known.claim_s = 0.0 if known.plan is None else known.plan.planned_time.timestamp()
        return known

    def _question(self, key: Key, known: _Known) -> Asked:
        """What would be asked now. Raises TrimtabError where nothing can be."""
        claims = together(self._claims(key).values())
        question = ask(known.deployment, self._rooms(), known.own, self._catalog, self._render, claims)
        used = self._calibration()
        return replace(question, calibration=None if used is None else used.digest)

    def _claims(self, key: Key, *, before: float = math.inf) -> dict[Key, dict[str, list[Pods]]]:
        """Room that the plans of others count on and their pods have not taken, of claims made before a moment. A plan whose
        pods do not come keeps nobody away for ever."""
        now_s = self._clock.utc_now().timestamp()
        found = {}
        for other, known in self._known.items():
            spec, plan = known.deployment.spec, known.plan
            if other == key or plan is None or not plan.candidates or spec.suspend or not spec.replicas:
                continue
            if known.claim_s + self._settings.claim_s <= now_s or (known.claim_s, other) >= (before, key):
                continue
            found[other] = claims_of(plan.candidates[0], known.own, self._catalog)
        return {other: claims for other, claims in found.items() if claims}

    def _has_room(self, key: Key, known: _Known, asked: Asked, runs: PlannedCandidate | None) -> bool:
        """Whether the running plan has room beside the claims that were made before its own."""
        everybody, earlier = self._claims(key), self._claims(key, before=known.claim_s)
        request = asked.request
        if earlier != everybody:
            rooms = self._rooms()
            request = ask(
                known.deployment, rooms, known.own, self._catalog, self._render, together(earlier.values())
            ).request
        return has_room(known.plan, request, self._catalog, runs)

    def _due(self, key: Key, known: _Known, asked: Asked, runs: PlannedCandidate | None) -> Due | None:
        room = self._has_room(key, known, asked, runs)
        return due(known.plan, asked, room, known.last, self._settings, known.uid)

    async def _ask(self, key: Key, known: _Known, urgent: bool) -> None:
        """Ask when it is this deployment's turn, about the pools as they are then; hold the turn until the answer is the
        plan in force, so that the next one knows what room is taken."""
        try:
            async with self._turns.turn(urgent):
                asked = self._question(key, known)
                runs = runs_on(known.plan, known.own, known.uid, self._catalog)
                if self._due(key, known, asked, runs) is None:
                    return  # what made it due has passed while it waited
                known.asked = asked
                known.answer = await self._answer(key, asked)
                self._wake(key)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(known.taken.wait(), _TAKEN_WITHIN_S)
        except TrimtabError:
            self._wake(key)  # there is no question any more: the next look says why
        finally:
            known.task = None

    async def _answer(self, key: Key, asked: Asked) -> ServingPlan | TrimtabError:
        assert self._service is not None
        try:
            return await self._service.plan(asked.request)
        except TrimtabError as error:
            return error
        except Exception as error:
            log.exception("%s: the planner failed", key)
            return Refused(f"the planner failed: {type(error).__name__}: {error}", code="PlannerDied")

    def _take_answer(
        self,
        key: Key,
        known: _Known,
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
        known.taken.set()
        if asked.request_revision != now.request_revision:
            return None
        error: TrimtabError
        try:
            if isinstance(answer, TrimtabError):
                raise in_words_of_the_spec(answer)
            new = plan_status(answer, asked, known.deployment, self._catalog, self._render, now_s)
        except TrimtabError as caught:
            error = caught
        else:
            before = known.plan
            room = self._has_room(key, known, asked, runs)
            known.plan, why = adopt(before, new, room, self._settings.margin, runs)
            if before is None or where(before.candidates[0]) != where(known.plan.candidates[0]):
                known.claim_s = now_s
                self.pools_changed()  # others find less room from now on
            known.last = Attempt(now_s, revisions(asked))
            shape = shape_text(known.plan.candidates[0])
            log.info("%s: %s (%s)", key, shape, why)
            changed = before is None or before.candidates[:1] != known.plan.candidates[:1]
            return f"{shape}: {why}" if changed else None
        again = known.last is not None and known.last.error is not None
        failures = known.last.failures + 1 if again and known.last is not None else 1
        known.last = Attempt(now_s, revisions(asked), failures, error, error.reason in PLANNER_DOWN)
        log.warning("%s: planning failed: %s", key, error)
        return None

    def _outlook(self, known: _Known, failed: TrimtabError | None, asked: Asked | None, aside: str = "") -> Outlook:
        return outlook(known.plan, failed, asked, aside, self._calibration())

    def _wake_all(self) -> None:
        self._timer = None
        for key in list(self._known):
            self._wake(key)
