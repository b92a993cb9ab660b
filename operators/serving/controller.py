"""The thin controller: snapshot in, decision, actions out. All knowledge is in `plan`; all writes are in `executor`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from controlplane.catalog import Catalog
from controlplane.model.actions import (
    Action,
    AwaitRoom,
    CreatePod,
    ReadEngines,
    Record,
    Remember,
    Requeue,
    WriteStatus,
)
from controlplane.model.live import LiveMetrics
from controlplane.model.plans import CalibrationUsed
from controlplane.model.ports import PlanningService
from operators.pools.plannable import PoolRoom
from operators.pools.rows import NodeView
from operators.runtime import (
    DONE,
    Clock,
    Controller,
    ControllerMetrics,
    EventRecorder,
    Expectations,
    Fence,
    Informer,
    Key,
    Regarding,
    Result,
    SystemClock,
    Writer,
)
from operators.serving.canary_reading import Readings
from operators.serving.executor import Executor
from operators.serving.owned import OwnedRow
from operators.serving.plan import decide
from operators.serving.plan_adopt import in_force
from operators.serving.plan_use import with_plan
from operators.serving.planning import Planning
from operators.serving.prepared import Prepared, Preparer, deployment_of, status_of
from operators.serving.reasons import Reason
from operators.serving.remembered import Remembered
from operators.serving.room import Supply
from operators.serving.rows import DeploymentRow
from operators.serving.sight import Sight
from operators.serving.snapshot import Notes, PlanSettings
from operators.serving.status import only_details, undecided
from operators.serving.waiting import Waiting
from operators.serving.wakes import Wakes
from operators.workloads.podview import PodView

# A delete that was answered but never seen in the watch (lost with a relist) is forgotten after this long.
_DELETE_SEEN_WITHIN_S = 60.0
# Texts and numbers of free room in a status are brought up to date at most this often.
_DETAILS_S = 10.0
# A new deployment whose pods have just been created says so after this long, unless there is more to say by then.
_FIRST_WORD_S = 1.0
_EVENT_ACTION = "Reconcile"


class ServingController:
    """Feed the inventory from the same informers first, so that it has seen a change before a deployment is looked at."""

    def __init__(
        self,
        *,
        deployments: Informer[Any, DeploymentRow],
        pods: Informer[Any, PodView],
        nodes: Informer[Any, NodeView],
        services: Informer[Any, OwnedRow],
        budgets: Informer[Any, OwnedRow],
        routed: Mapping[str, Informer[Any, OwnedRow]] = MappingProxyType({}),
        supply: Supply,
        inventory_pod: Callable[[PodView], None],
        catalog: Catalog,
        settings: PlanSettings,
        writer: Writer,
        fence: Fence,
        recorder: EventRecorder | None = None,
        metrics: ControllerMetrics | None = None,
        planner: PlanningService | None = None,
        rooms: Callable[[], Sequence[PoolRoom]] = tuple,
        calibration: Callable[[], CalibrationUsed | None] = lambda: None,
        live: LiveMetrics | None = None,
        workers: int = 8,
        clock: Clock | None = None,
    ) -> None:
        self._deployments, self._pods = deployments, pods
        self._supply, self._settings, self._writer = supply, settings, writer
        self._recorder = recorder
        self._clock: Clock = clock or SystemClock()
        self._preparer = Preparer(catalog, settings.render)
        self._expectations = Expectations(self._clock, _DELETE_SEEN_WITHIN_S)
        self._executor = Executor(
            writer,
            fence,
            pods=pods,
            services=services,
            budgets=budgets,
            routed=routed,
            supply=supply,
            inventory_pod=inventory_pod,
            expectations=self._expectations,
        )
        self._remembered = Remembered(settings)
        self._sight = Sight(
            pods=pods,
            nodes=nodes,
            services=services,
            budgets=budgets,
            routed=routed,
            supply=supply,
            expectations=self._expectations,
            remembered=self._remembered,
            clock=self._clock,
        )
        self._told_s: dict[Key, float] = {}
        self._revision = supply.revision
        self.controller = Controller(
            "servingdeployment",
            self.reconcile,
            workers=workers,
            metrics=metrics,
            seeds=self._seeds,
            clock=self._clock,
        )
        self.waiting = Waiting(self.controller.enqueue, self._clock)
        self._planning = Planning(
            planner,
            rooms,
            calibration,
            catalog=catalog,
            render=settings.render,
            wake=self.controller.enqueue,
            clock=self._clock,
            seeds=self._seeds,
        )
        self._readings = Readings(live, self.controller.enqueue, self._clock)
        self.run_readings = self._readings.run
        self.run_planner = self._planning.run
        self.calibration_changed = self._planning.pools_changed
        deployments.add_handler(self._deployment_changed)
        wakes = Wakes(pods, self._expectations, self.controller.enqueue)
        pods.add_handler(wakes.pod_changed)
        nodes.add_handler(wakes.node_changed)
        for informer in (services, budgets, *routed.values()):
            informer.add_handler(wakes.owned_changed)

    def questions_waiting(self) -> int:
        """Deployments whose planning question waits for its turn."""
        return self._planning.waiting

    def room_changed(self, _pool: str) -> None:
        """Subscribe this to the inventory."""
        self._planning.pools_changed()
        if self._supply.revision != self._revision:
            self._revision = self._supply.revision
            self.waiting.room()

    # ---- one reconcile

    async def reconcile(self, key: Key) -> Result:
        """Bring one deployment a step closer to its spec."""
        await self._executor.find_unanswered(key)
        row = self._deployments.store.get(key)
        if row is None or row.deleting:
            self._forget(key)  # what it owned goes with it, by owner reference
            return DONE
        prepared = self._preparer.prepare(row)
        if prepared.spec is None:
            await self._say_undecided(row, Reason.UNREADABLE_SPEC, prepared.problem)
            return DONE
        if self.waiting.due and key not in self.waiting and self._may_take_room(key, prepared):
            # Room has just appeared: those who wait for it are asked first, in their order.
            self.waiting.flush()
            self.controller.queue.add(key)
            return DONE
        stored, status = status_of(row)
        deployment = deployment_of(row, prepared.spec, status)
        pods = self._pods.store.by_index("deployment", key)
        prepared, deployment, outlook = with_plan(self._planning, self._preparer, row, prepared, deployment, pods)
        stable = self._preparer.stable(row, deployment, prepared.record)
        snapshot = self._sight.snapshot(row, prepared, deployment, outlook, stable, self._readings.latest(key))
        try:
            actions = decide(snapshot, self._settings, self._clock.utc_now().timestamp())
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            await self._say_undecided(row, Reason.INTERNAL_ERROR, f"{said}; the operator's log has the details")
            raise
        self._note(key, actions)
        outcome = await self._executor.run(key, row.uid, row.namespace, actions)
        self._publish(row, actions)
        if outcome.namespace_ends:
            return DONE  # nothing can be made in it any more, and the deployment goes with it
        if self._remembered.learn(key, outcome, self._clock.utc_now().timestamp()):
            return Result(0.0)  # the next decision says so
        if outcome.error is not None:
            raise outcome.error
        written = next((action.status for action in actions if isinstance(action, WriteStatus)), None)
        again = next((action.after_s for action in actions if isinstance(action, Requeue)), None)
        if written is not None:
            since_s = self._clock.monotonic_s() - self._told_s.get(key, float("-inf"))
            if since_s < _DETAILS_S and only_details(stored, written):
                return Result(min(_DETAILS_S - since_s, again or _DETAILS_S))
            if not stored and any(isinstance(action, CreatePod) for action in actions):
                # Mostly superseded before anybody reads it: what becomes of the new pods is known in a moment.
                return Result(min(_FIRST_WORD_S, again or _FIRST_WORD_S))
            await self._write_status(row, written, stored)
        return DONE if again is None else Result(again)

    async def _write_status(self, row: DeploymentRow, written: dict[str, Any], stored: dict[str, Any]) -> None:
        with self._deployments.own_write(row.key):
            body = await self._writer.apply_status(
                self._deployments.resource, row.name, row.namespace, written, current=stored
            )
            if body is not None:
                self._deployments.absorb(body)
        if body is not None:
            self._told_s[row.key] = self._clock.monotonic_s()

    def _may_take_room(self, key: Key, prepared: Prepared) -> bool:
        spec = prepared.spec
        wanted = 0 if spec is None or spec.suspend else in_force(spec, self._planning.plan_of(key)).engines_wanted
        return len(self._pods.store.index_keys("deployment", key)) < wanted

    async def _say_undecided(self, row: DeploymentRow, reason: Reason, message: str) -> None:
        stored, status = status_of(row)
        now_s = self._clock.utc_now().timestamp()
        await self._write_status(row, undecided(row.name, row.generation, status, reason, message, now_s), stored)

    # ---- what a decision leaves behind

    def _note(self, key: Key, actions: list[Action]) -> None:
        waits = False
        for action in actions:
            if isinstance(action, Remember) and isinstance(action.notes, Notes):
                self._remembered.note(key, action.notes)
                if action.notes.canary is None:
                    self._readings.forget(key)
            elif isinstance(action, AwaitRoom):
                self.waiting.add(key, action.rank, action.since_s)
                waits = True
            elif isinstance(action, ReadEngines):
                self._readings.ask(key, action.pods)
        if not waits:
            self.waiting.discard(key)

    def _publish(self, row: DeploymentRow, actions: list[Action]) -> None:
        if self._recorder is None:
            return
        resource = self._deployments.resource
        about = Regarding(resource.api_version, resource.kind, row.name, row.namespace, row.uid)
        for action in actions:
            if isinstance(action, Record):
                self._recorder.event(about, action.type, action.reason, action.message, _EVENT_ACTION)

    def _forget(self, key: Key) -> None:
        self._remembered.forget(key)
        self._told_s.pop(key, None)
        self._executor.forget(key)
        self._planning.forget(key)
        self._readings.forget(key)
        self.waiting.discard(key)
        self._expectations.forget(key)

    # ---- what makes a deployment worth a look

    def _seeds(self) -> list[Key]:
        """All deployments, those first that are placed first."""
        rows = sorted(self._deployments.store.values(), key=lambda row: row.created or "")
        return [row.key for row in rows]

    def _deployment_changed(self, old: DeploymentRow | None, new: DeploymentRow | None) -> None:
        row = new or old
        if row is None:
            return
        if new is None or (old is not None and old.uid != new.uid):
            self._preparer.forget(row.uid if old is None else old.uid)
            self._forget(row.key)
        self.controller.enqueue(row.key)
