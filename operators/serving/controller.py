"""The thin controller: snapshot in, decision, actions out. All knowledge is in `plan`; all writes are in `executor`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from controlplane.catalog import Catalog
from controlplane.model.actions import Action, AwaitRoom, CreatePod, Record, Remember, Requeue, WriteStatus
from controlplane.model.errors import Unsupported
from controlplane.model.plans import CalibrationUsed
from controlplane.model.ports import PlanningService
from controlplane.model.serving import ServingDeployment
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
    key_of,
)
from operators.serving.executor import Executor, Outcome, Refused
from operators.serving.names import gang_service_name
from operators.serving.owned import BUDGETS, SERVICES, OwnedRow, Shape
from operators.serving.plan import decide
from operators.serving.plan_adopt import in_force, shares_of
from operators.serving.planning import Planning
from operators.serving.podnews import leaving, told
from operators.serving.prepared import Prepared, Preparer, deployment_of, status_of
from operators.serving.reasons import Reason
from operators.serving.repair import with_failure
from operators.serving.room import Room, Supply
from operators.serving.routers import DEPLOYMENTS as ROUTER_DEPLOYMENTS
from operators.serving.routers import OWN_ROUTERS, routing_names
from operators.serving.rows import DeploymentRow
from operators.serving.snapshot import NodeState, Notes, Outlook, PlanSettings, Snapshot, Taken
from operators.serving.status import only_details, undecided
from operators.serving.waiting import Waiting
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
        workers: int = 8,
        clock: Clock | None = None,
    ) -> None:
        self._deployments, self._pods, self._nodes = deployments, pods, nodes
        self._services, self._budgets, self._routed = services, budgets, routed
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
        self._notes: dict[Key, Notes] = {}
        self._told_s: dict[Key, float] = {}
        self._taken: dict[Key, tuple[Taken, ...]] = {}
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
        )
        self.run_planner = self._planning.run
        self.calibration_changed = self._planning.pools_changed
        deployments.add_handler(self._deployment_changed)
        pods.add_handler(self._pod_changed)
        nodes.add_handler(self._node_changed)
        services.add_handler(self._owned_changed)
        budgets.add_handler(self._owned_changed)
        for informer in routed.values():
            informer.add_handler(self._owned_changed)

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
        prepared, deployment, outlook = self._planned(row, prepared, deployment_of(row, prepared.spec, status))
        snapshot = self._snapshot(row, prepared, deployment, outlook)
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
        if outcome.taken != self._taken.get(key, ()):
            self._taken[key] = outcome.taken
            return Result(0.0)  # the next decision says so
        if outcome.refused:
            self._back_off(key, outcome)
            return Result(0.0)
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

    def _planned(
        self, row: DeploymentRow, prepared: Prepared, deployment: ServingDeployment
    ) -> tuple[Prepared, ServingDeployment, Outlook | None]:
        """An auto deployment with the choices of the plan in force, as if they were explicit."""
        if deployment.spec.auto is None:
            self._planning.forget(row.key)
            return prepared, deployment, None
        if not prepared.plannable:
            word = prepared.errors[0] if prepared.errors else None
            said = Outlook(deployment.status.plan, "False", Reason.PLAN_FAILED, str(word))
            return prepared, deployment.model_copy(update={"spec": in_force(deployment.spec, said.plan)}), said
        outlook = self._planning.look(row.key, deployment, self._pods.store.by_index("deployment", row.key))
        spec = in_force(deployment.spec, outlook.plan)
        if spec.choices:
            prepared = self._preparer.prepare(row, outlook.plan)
        else:
            why = Unsupported(outlook.message, field="spec.auto", code=outlook.reason.value)
            prepared = replace(prepared, errors=(why,), templates=())
        return prepared, deployment.model_copy(update={"spec": spec}), outlook

    def _snapshot(
        self, row: DeploymentRow, prepared: Prepared, deployment: ServingDeployment, outlook: Outlook | None
    ) -> Snapshot:
        now_s = int(self._clock.utc_now().timestamp())
        _, doomed = self._expectations.pending(row.key)
        pods = self._pods.store.by_index("deployment", row.key)
        if doomed and not self._expectations.satisfied(row.key):
            # Our own deletes that the watch has not shown yet.
            pods = [leaving(pod, now_s) if pod.uid in doomed and not pod.deleting else pod for pod in pods]
        return Snapshot(
            deployment=deployment,
            templates=prepared.templates,
            errors=prepared.errors,
            pods=pods,
            placer=Room(self._supply, self._clock.monotonic_s()),
            node_state=self._node_state,
            owned=self._owned(row),
            notes=self._notes.get(row.key, Notes()),
            taken=self._taken.get(row.key, ()),
            outlook=outlook,
            router_ready=self._router_ready(row, deployment),
            shares=shares_of(None if outlook is None else outlook.plan),
        )

    def _router_ready(self, row: DeploymentRow, deployment: ServingDeployment) -> bool:
        routers = self._routed.get(ROUTER_DEPLOYMENTS)
        if deployment.spec.routing.router not in OWN_ROUTERS or routers is None:
            return True
        router = routers.store.get(key_of(row.namespace, routing_names(row.name)[1]))
        return router is not None and router.ready_pods > 0

    def _owned(self, row: DeploymentRow) -> dict[tuple[str, str], Shape]:
        found: dict[tuple[str, str], Shape] = {}
        for name in (row.name, gang_service_name(row.name)):
            service = self._services.store.get(key_of(row.namespace, name))
            if service is not None:
                found[SERVICES, name] = service.shape
        budget = self._budgets.store.get(row.key)
        if budget is not None:
            found[BUDGETS, row.name] = budget.shape
        for plural, informer in self._routed.items():
            for name in routing_names(row.name):
                item = informer.store.get(key_of(row.namespace, name))
                if item is not None:
                    found[plural, name] = item.shape
        return found

    def _node_state(self, name: str) -> NodeState:
        node = self._nodes.store.get(name)
        if node is None:
            return NodeState.GONE
        return NodeState.READY if node.ready else NodeState.SILENT

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
                self._notes[key] = action.notes
            elif isinstance(action, AwaitRoom):
                self.waiting.add(key, action.rank, action.since_s)
                waits = True
        if not waits:
            self.waiting.discard(key)

    def _back_off(self, key: Key, outcome: Outcome) -> None:
        """The API server refuses our pods: try again later, and let the next decision say so."""
        notes = self._notes.get(key, Notes())
        now_s = self._clock.utc_now().timestamp()
        back_off = dict(notes.back_off)
        first: dict[str, Refused] = {}
        for refused in outcome.refused:
            first.setdefault(refused.revision, refused)
        for revision, refused in first.items():
            back_off = with_failure(back_off, revision, Reason.PODS_REFUSED, refused.message, self._settings, now_s)
        self._notes[key] = replace(notes, back_off=back_off)

    def _publish(self, row: DeploymentRow, actions: list[Action]) -> None:
        if self._recorder is None:
            return
        resource = self._deployments.resource
        about = Regarding(resource.api_version, resource.kind, row.name, row.namespace, row.uid)
        for action in actions:
            if isinstance(action, Record):
                self._recorder.event(about, action.type, action.reason, action.message, _EVENT_ACTION)

    def _forget(self, key: Key) -> None:
        self._notes.pop(key, None)
        self._taken.pop(key, None)
        self._told_s.pop(key, None)
        self._executor.forget(key)
        self._planning.forget(key)
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

    def _pod_changed(self, old: PodView | None, new: PodView | None) -> None:
        row = new or old
        if row is None or row.deployment is None:
            return
        key = key_of(row.namespace, row.deployment)
        if new is None or new.deleting:
            self._expectations.deleted(key, row.uid)
        if old is None or new is None or old is new or told(old) != told(new):
            self.controller.enqueue(key)

    def _node_changed(self, old: NodeView | None, new: NodeView | None) -> None:
        row = new or old
        if row is None or (old is not None and new is not None and old.ready == new.ready):
            return
        for pod in self._pods.store.by_index("node", row.name):
            if pod.deployment is not None:
                self.controller.enqueue(key_of(pod.namespace, pod.deployment))

    def _owned_changed(self, old: OwnedRow | None, new: OwnedRow | None) -> None:
        row = new or old
        if row is not None and row.deployment and (old is None or new is None or _differ(old, new)):
            self.controller.enqueue(key_of(row.namespace, row.deployment))


def _differ(old: OwnedRow, new: OwnedRow) -> bool:
    return old.shape != new.shape or (old.ready_pods > 0) != (new.ready_pods > 0)
