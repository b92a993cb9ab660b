"""A small but complete controller on the fake API server while a third of everything fails."""

import asyncio
import json
import random

import msgspec
import pytest

from controlplane.kube import PODS, AlreadyExists, ClusterAccess, KubeClient, KubeError, Resource
from controlplane.testing import FakeApiServer, Fault
from operators.runtime import (
    DONE,
    Condition,
    Controller,
    Expectations,
    Informer,
    Manager,
    ObjectMeta,
    Projection,
    Result,
    Row,
    SystemClock,
    Wire,
    Writer,
    owner_reference,
    set_condition,
)
from tests.unit.runtime.helpers import PodWire, project, until

WIDGETS = Resource("example.dev", "v1", "widgets", "Widget")
COLLECTION = "example.dev/v1/widgets"


class Spec(Wire):
    replicas: int = 0


class Status(Wire):
    replicas: int = 0
    conditions: tuple[Condition, ...] = ()


class WidgetWire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: Spec = msgspec.field(default_factory=Spec)
    status: Status = msgspec.field(default_factory=Status)


class WidgetRow(Row):
    replicas: int
    status: Status


def widget_row(wire: WidgetWire) -> WidgetRow:
    meta = wire.metadata
    return WidgetRow(meta.namespace, meta.name, meta.uid, meta.resourceVersion, wire.spec.replicas, wire.status)


class WidgetController:
    """Keeps `replicas` pods with generated names: only expectations and the cache keep it from making too many."""

    def __init__(self, client: KubeClient, manager: Manager) -> None:
        self.client = client
        self.writer = Writer(client, "widget", manager.fence.check)
        self.widgets = Informer(
            client, WIDGETS, Projection(WidgetWire, widget_row), indexers={"uid": lambda w: (w.uid,)}
        )
        self.pods = Informer(client, PODS, Projection(PodWire, project), indexers={"owner": lambda p: (p.owner_uid,)})
        self.expectations = Expectations(timeout_s=5.0)
        self.controller = Controller("widget", self.reconcile, workers=4, seeds=self.widgets.store.all_keys)
        self.number = 0
        self.widgets.add_handler(lambda old, new: self.controller.enqueue((new or old).key))
        self.pods.add_handler(self.pod_changed)
        for informer in (self.widgets, self.pods):
            manager.add_informer(informer)
        manager.add_controller(self.controller)

    def pod_changed(self, old, new) -> None:
        row = new or old
        for owner in self.widgets.store.by_index("uid", row.owner_uid):
            if old is None:
                self.expectations.created(owner.key, row.name)
            if new is None:
                self.expectations.deleted(owner.key, row.uid)
            self.controller.enqueue(owner.key)

    async def reconcile(self, key: str) -> Result:
        widget = self.widgets.store.get(key)
        if widget is None:
            self.expectations.forget(key)
            return DONE
        if not self.expectations.satisfied(key):
            return Result(self.expectations.remaining_s(key))
        pods = self.pods.store.by_index("owner", widget.uid)
        missing = widget.replicas - len(pods)
        for _ in range(missing):
            await self.create(key, widget)
        for pod in pods[widget.replicas :]:
            self.expectations.expect_deleted(key, [pod.uid])
            if not await self.writer.delete(PODS, pod.name, pod.namespace, uid=pod.uid):
                self.expectations.deleted(key, pod.uid)
        ready = missing == 0
        condition = Condition("Ready", "True" if ready else "False", "AllThere" if ready else "Missing")
        status = {
            "replicas": len(pods),
            "conditions": set_condition(widget.status.conditions, condition, SystemClock().utc_now()),
        }
        current = msgspec.to_builtins(widget.status)
        body = await self.writer.apply_status(WIDGETS, widget.name, widget.namespace, status, current=current)
        if body is not None:
            self.widgets.absorb(body)
        return DONE

    async def create(self, key: str, widget: WidgetRow) -> None:
        self.number += 1
        name = f"{widget.name}-{self.number}"
        owner = owner_reference("example.dev/v1", "Widget", widget.name, widget.uid)
        self.expectations.expect_created(key, [name])
        try:
            pod = {"metadata": {"name": name, "namespace": widget.namespace, "ownerReferences": [owner]}}
            self.pods.absorb(await self.writer.create(PODS, pod), wake=True)
        except AlreadyExists:
            pass
        except KubeError as error:
            if error.status:  # refused: it will never appear. Without an answer it may: the watch will tell
                self.expectations.created(key, name)
            raise
        self.expectations.created(key, name)


def faults(seed: int) -> list[Fault]:
    kinds = [
        Fault(probability=0.08, delay_s=0.03),
        Fault(probability=0.06, status=500),
        Fault(probability=0.06, status=503, retry_after_s=0),
        Fault(probability=0.05, drop_before=True),
        Fault(probability=0.05, drop_after=True),
        Fault(probability=0.03, method="PATCH", status=409),
    ]
    random.Random(seed).shuffle(kinds)
    return kinds


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_it_converges_and_then_is_quiet(seed):
    rng = random.Random(seed)
    wanted = {f"w{n}": rng.randrange(1, 5) for n in range(12)}
    async with FakeApiServer(seed=seed) as server, KubeClient(ClusterAccess(server.url), timeout_s=2.0) as client:
        manager = Manager(stop_grace_s=2.0)
        widgets = WidgetController(client, manager)
        running = asyncio.create_task(manager.run())
        server.faults = faults(seed)
        for name, replicas in wanted.items():
            server.storage.create(COLLECTION, "ns", {"metadata": {"name": name}, "spec": {"replicas": replicas}})
            await asyncio.sleep(0.01)
        for step in range(20):
            await asyncio.sleep(0.05)
            server.watches.end(clean=rng.random() < 0.5)
            if step % 5 == 4:
                server.storage.compact()
                name = rng.choice(sorted(wanted))
                wanted[name] = rng.randrange(0, 6)
                server.storage.merge(COLLECTION, "ns", name, {"spec": {"replicas": wanted[name]}}, status_only=False)
            pods = server.storage.objects("/v1/pods")
            for pod in rng.sample(pods, k=min(1, step % 3, len(pods))):
                server.storage.delete("/v1/pods", "ns", pod["metadata"]["name"], {})
        server.faults.clear()

        def converged() -> bool:
            pods = server.storage.objects("/v1/pods")
            objects = server.storage.objects(COLLECTION)
            counts = {
                w["metadata"]["name"]: sum(
                    p["metadata"]["ownerReferences"][0]["uid"] == w["metadata"]["uid"] for p in pods
                )
                for w in objects
            }
            statuses = {w["metadata"]["name"]: w.get("status", {}).get("replicas", 0) for w in objects}
            ready = [w.get("status", {}).get("conditions", [{}])[0].get("status") for w in objects]
            return counts == wanted and statuses == wanted and set(ready) == {"True"}

        await until(converged, 30.0)
        queue = widgets.controller.queue
        await until(lambda: not (len(queue) or queue.waiting or queue.processing_since_s))
        quiet = len(server.writes())
        for key in widgets.widgets.store.all_keys():
            widgets.controller.enqueue(key)
        server.watches.end()
        await until(lambda: not (len(queue) or queue.processing_since_s))
        await asyncio.sleep(0.2)  # nothing to wait for: the point is that nothing happens
        assert len(server.writes()) == quiet, json.dumps(server.writes()[quiet:])
        assert converged()
        manager.stop()
        await running
