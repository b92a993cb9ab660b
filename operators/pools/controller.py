"""The `GPUPool` controller: keeps the finalizer, lets a pool go when it is empty, writes its status when it changed."""

from __future__ import annotations

from typing import Any, Literal

from controlplane.model.labels import POOL_FINALIZER
from operators.placement import PoolSupply
from operators.pools.inventory import Inventory
from operators.pools.poolrow import PoolRow, PoolWire, project_pool
from operators.pools.rows import NodeView, NodeWire, SliceView, SliceWire, project_node, project_slice
from operators.pools.status import Observed, common_nic, invalid, pool_facts, status
from operators.runtime import (
    DONE,
    Cached,
    Clock,
    Controller,
    ControllerMetrics,
    EventRecorder,
    Informer,
    Key,
    Projection,
    Regarding,
    Result,
    SystemClock,
    Writer,
    find_condition,
    with_finalizer,
    without_finalizer,
)
from operators.workloads.podview import PodView

POOL_PROJECTION: Projection[PoolWire, PoolRow] = Projection(PoolWire, project_pool)
NODE_PROJECTION: Projection[NodeWire, NodeView] = Projection(NodeWire, project_node)
SLICE_PROJECTION: Projection[SliceWire, SliceView] = Projection(SliceWire, project_slice)

# A pool's figures move with every pod; its status is written at most this often, changes of its spec aside.
STATUS_INTERVAL_S = 1.0
EXPIRY_INTERVAL_S = 5.0


def feed(
    inventory: Inventory,
    *,
    pools: Informer[Any, PoolRow],
    nodes: Informer[Any, NodeView],
    pods: Informer[Any, PodView],
    slices: Informer[Any, SliceView] | None,
    deployments: Informer[Any, Any],
) -> None:
    """Let informers keep the inventory up to date. `slices` is None where the API server does not serve them;
    `deployments` says whose pods are ours."""

    def pool_changed(old: PoolRow | None, new: PoolRow | None) -> None:
        row = new or old
        if row is None:
            return
        if new is None or new.spec is None:
            inventory.remove_pool(row.name)
        else:
            # A pool on its way out takes nothing new.
            spec = new.spec.model_copy(update={"suspend": True}) if new.deleting else new.spec
            inventory.set_pool(new.name, spec)

    def node_changed(old: NodeView | None, new: NodeView | None) -> None:
        if new is not None:
            inventory.set_node(new)
        elif old is not None:
            inventory.remove_node(old.name)

    def pod_changed(old: PodView | None, new: PodView | None) -> None:
        if new is not None:
            inventory.set_pod(new)
        elif old is not None:
            inventory.remove_pod(old)

    def slice_changed(old: SliceView | None, new: SliceView | None) -> None:
        if new is not None:
            inventory.set_slice(new)
        elif old is not None:
            inventory.remove_slice(old.name)

    def deployment_changed(old: Cached | None, new: Cached | None) -> None:
        if new is not None:
            inventory.set_owner(new.namespace, new.uid)
        elif old is not None:
            inventory.remove_owner(old.namespace, old.uid)

    deployments.add_handler(deployment_changed)
    pools.add_handler(pool_changed)
    nodes.add_handler(node_changed)
    pods.add_handler(pod_changed)
    if slices is not None:
        slices.add_handler(slice_changed)


class PoolController:
    """Wire with `feed` first, so that the inventory has seen a change before the pool is looked at."""

    def __init__(
        self,
        pools: Informer[Any, PoolRow],
        inventory: Inventory,
        writer: Writer,
        *,
        recorder: EventRecorder | None = None,
        metrics: ControllerMetrics | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._pools = pools
        self._inventory = inventory
        self._writer = writer
        self._recorder = recorder
        self._clock: Clock = clock or SystemClock()
        self.controller = Controller(
            "gpupool", self.reconcile, workers=2, metrics=metrics, seeds=pools.store.all_keys, clock=self._clock
        )
        self._waiting: set[Key] = set()
        self._written: dict[Key, tuple[float, int, bool]] = {}  # when, generation, deleting
        self._facts: dict[Key, tuple[int, list[dict[str, Any]], str | None]] = {}
        pools.add_handler(self._pool_changed)
        inventory.subscribe(self._figures_changed)

    async def expire_reservations(self) -> None:
        """Background: forget promises to pods that were never created."""
        while True:
            await self._clock.sleep(EXPIRY_INTERVAL_S)
            self._inventory.expire(self._clock.monotonic_s())

    async def reconcile(self, key: Key) -> Result:
        """Bring one pool's finalizer and status up to date."""
        self._waiting.discard(key)
        row = self._pools.store.get(key)
        if row is None:
            self._written.pop(key, None)
            self._facts.pop(key, None)
            return DONE
        wait_s = self._too_early_s(row)
        if wait_s > 0:
            self._waiting.add(key)
            return Result(wait_s)
        if row.deleting and self._inventory.replicas_in(row.name) == 0:
            await self._release(row)
            return DONE
        if not row.deleting:
            await self._claim(row)
        body = self._status(row)
        written = await self._writer.apply_status(self._pools.resource, row.name, None, body, current=row.status)
        if written is not None:
            self._written[key] = (self._clock.monotonic_s(), row.generation, row.deleting)
            self._announce(row, body)
            self._pools.absorb(written)
        return DONE

    async def _claim(self, row: PoolRow) -> None:
        finalizers = with_finalizer(row.finalizers, POOL_FINALIZER)
        if finalizers is not None:
            self._pools.absorb(await self._finalizers(row, finalizers))

    async def _release(self, row: PoolRow) -> None:
        finalizers = without_finalizer(row.finalizers, POOL_FINALIZER)
        if finalizers is not None:
            await self._finalizers(row, finalizers)

    async def _finalizers(self, row: PoolRow, finalizers: tuple[str, ...]) -> bytes:
        return await self._writer.set_finalizers(
            self._pools.resource, row.name, None, finalizers, resource_version=row.resource_version
        )

    def _status(self, row: PoolRow) -> dict[str, Any]:
        now = self._clock.utc_now()
        if row.spec is None:
            return invalid(row.generation, row.problem or "spec cannot be read", row.conditions(), now)
        inventory, name = self._inventory, row.name
        facts, nic = self._facts_of(row)
        supply = inventory.fleet.supply(name) or PoolSupply(name, row.spec.accelerator)
        seen = Observed(
            generation=row.generation,
            deleting=row.deleting,
            supply=supply,
            totals=inventory.fleet.totals(name),
            facts=facts,
            nic=row.spec.nic.nic_class or nic,
            cpu=inventory.counts_cpu(name),
            overlaps=inventory.overlaps(name),
            replicas=inventory.replicas_in(name) if row.deleting else 0,
            why_no_nodes=lambda: inventory.why_no_nodes(name),
        )
        return status(row.spec, seen, row.conditions(), now)

    def _facts_of(self, row: PoolRow) -> tuple[list[dict[str, Any]], str | None]:
        version = self._inventory.facts_version(row.name)
        known = self._facts.get(row.name)
        if known is None or known[0] != version:
            nodes = self._inventory.facts(row.name)
            known = self._facts[row.name] = (version, pool_facts(nodes), common_nic(nodes))
        return known[1], known[2]

    def _too_early_s(self, row: PoolRow) -> float:
        last = self._written.get(row.name)
        if last is None or last[1:] != (row.generation, row.deleting):
            return 0.0
        return last[0] + STATUS_INTERVAL_S - self._clock.monotonic_s()

    def _announce(self, row: PoolRow, body: dict[str, Any]) -> None:
        before = find_condition(row.conditions(), "Ready")
        after = next((item for item in body["conditions"] if item["type"] == "Ready"), None)
        if self._recorder is None or after is None or (before is not None and before.reason == after["reason"]):
            return
        kind: Literal["Normal", "Warning"] = "Normal" if after["status"] == "True" else "Warning"
        resource = self._pools.resource
        regarding = Regarding(resource.api_version, resource.kind, row.name, uid=row.uid)
        self._recorder.event(regarding, kind, after["reason"], after["message"] or after["reason"], "Observe")

    def _pool_changed(self, old: PoolRow | None, new: PoolRow | None) -> None:
        row = new or old
        if row is not None:
            self.controller.enqueue(row.name)

    def _figures_changed(self, pool: str) -> None:
        if pool not in self._waiting:
            self.controller.enqueue(pool)
