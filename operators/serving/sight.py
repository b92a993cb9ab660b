"""What a decision about one deployment looks at, out of the caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.model.live import LiveReading
from controlplane.model.serving import ServingDeployment
from operators.pools.rows import NodeView
from operators.runtime import Clock, Expectations, Informer, key_of
from operators.serving.names import gang_service_name
from operators.serving.owned import BUDGETS, SERVICES, OwnedRow, Shape
from operators.serving.plan_adopt import shares_of
from operators.serving.podnews import leaving
from operators.serving.prepared import Prepared
from operators.serving.remembered import Remembered
from operators.serving.room import Room, Supply
from operators.serving.routers import DEPLOYMENTS as ROUTER_DEPLOYMENTS
from operators.serving.routers import OWN_ROUTERS, routing_names
from operators.serving.rows import DeploymentRow
from operators.serving.snapshot import NodeState, Outlook, Snapshot, Stable
from operators.workloads.podview import PodView


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The caches of one controller."""

    pods: Informer[Any, PodView]
    nodes: Informer[Any, NodeView]
    services: Informer[Any, OwnedRow]
    budgets: Informer[Any, OwnedRow]
    routed: Mapping[str, Informer[Any, OwnedRow]]
    supply: Supply
    expectations: Expectations
    remembered: Remembered
    clock: Clock

    def snapshot(
        self,
        row: DeploymentRow,
        prepared: Prepared,
        deployment: ServingDeployment,
        outlook: Outlook | None,
        stable: Stable | None = None,
        live: LiveReading | None = None,
    ) -> Snapshot:
        """Everything that is known about the deployment now."""
        now_s = int(self.clock.utc_now().timestamp())
        _, doomed = self.expectations.pending(row.key)
        pods = self.pods.store.by_index("deployment", row.key)
        if doomed and not self.expectations.satisfied(row.key):
            # Our own deletes that the watch has not shown yet.
            pods = [leaving(pod, now_s) if pod.uid in doomed and not pod.deleting else pod for pod in pods]
        return Snapshot(
            deployment=deployment,
            templates=prepared.templates,
            errors=prepared.errors,
            pods=pods,
            placer=Room(self.supply, self.clock.monotonic_s()),
            node_state=self._node_state,
            owned=self._owned(row),
            notes=self.remembered.notes(row.key),
            taken=self.remembered.taken(row.key),
            outlook=outlook,
            router_ready=self._router_ready(row, deployment),
            shares=shares_of(None if outlook is None else outlook.plan, deployment.spec.replicas),
            record=prepared.record,
            stable=stable,
            live=live,
        )

    def _router_ready(self, row: DeploymentRow, deployment: ServingDeployment) -> bool:
        routers = self.routed.get(ROUTER_DEPLOYMENTS)
        if deployment.spec.routing.router not in OWN_ROUTERS or routers is None:
            return True
        router = routers.store.get(key_of(row.namespace, routing_names(row.name)[1]))
        return router is not None and router.ready_pods > 0

    def _owned(self, row: DeploymentRow) -> dict[tuple[str, str], Shape]:
        found: dict[tuple[str, str], Shape] = {}
        for name in (row.name, gang_service_name(row.name)):
            service = self.services.store.get(key_of(row.namespace, name))
            if service is not None:
                found[SERVICES, name] = service.shape
        budget = self.budgets.store.get(row.key)
        if budget is not None:
            found[BUDGETS, row.name] = budget.shape
        for plural, informer in self.routed.items():
            for name in routing_names(row.name):
                item = informer.store.get(key_of(row.namespace, name))
                if item is not None:
                    found[plural, name] = item.shape
        return found

    def _node_state(self, name: str) -> NodeState:
        node = self.nodes.store.get(name)
        if node is None:
            return NodeState.GONE
        return NodeState.READY if node.ready else NodeState.SILENT
