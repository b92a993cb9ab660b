"""What the API reads: pools, deployments, their events and engine pods, kept by watches.

Documents are kept as the JSON the API server sent (without managedFields), so that a list of a thousand objects is
a join, not a thousand encodings.
"""

import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Literal

import msgspec

from controlplane.bus import EventLog
from controlplane.kube import PODS, KubeClient, Resource
from controlplane.model import labels
from controlplane.model.events import Change
from controlplane.model.resource import GROUP, VERSION
from operators.runtime import Informer, OwnerReference, Projection, Row, controller_of

GPU_POOLS: Final = Resource(GROUP, VERSION, "gpupools", "GPUPool", namespaced=False)
SERVING_DEPLOYMENTS: Final = Resource(GROUP, VERSION, "servingdeployments", "ServingDeployment")
API_POD_SELECTOR: Final = "app.kubernetes.io/name=trimtab,app.kubernetes.io/component=api"
# The core group's view of events can be selected by the object's apiVersion; the newer group's cannot.
CORE_EVENTS: Final = Resource("", "v1", "events", "Event")


_encode = msgspec.json.Encoder().encode


class Metadata(msgspec.Struct, omit_defaults=True):
    """Metadata as shown by the API."""

    name: str
    uid: str
    resourceVersion: str
    namespace: str = ""
    generation: int = 0
    creationTimestamp: str | None = None
    deletionTimestamp: str | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    finalizers: list[str] = msgspec.field(default_factory=list)


class Document(msgspec.Struct, omit_defaults=True):
    """A custom resource whose spec and status stay undecoded."""

    metadata: Metadata
    spec: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    status: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class CachedDocument(Row):
    """One object as the API shows it."""

    json: bytes


class WatchedPod(Row):
    """A pod whose readiness or metrics matter to the API: an engine's rank 0, or a replica of the API itself."""

    deployment: str
    engine: str
    owner_uid: str
    ip: str
    on_host: bool
    ready: bool


class ObjectEvent(Row):
    """A Kubernetes event about one of our objects."""

    json: bytes


class _PodMeta(msgspec.Struct):
    name: str
    namespace: str
    uid: str
    resourceVersion: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    ownerReferences: list[OwnerReference] = msgspec.field(default_factory=list)


class _PodSpec(msgspec.Struct):
    hostNetwork: bool = False


class _PodCondition(msgspec.Struct):
    type: str
    status: str


class _PodStatus(msgspec.Struct):
    podIP: str = ""
    hostIP: str = ""
    conditions: list[_PodCondition] = msgspec.field(default_factory=list)


class _Pod(msgspec.Struct):
    metadata: _PodMeta
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


class _Regarding(msgspec.Struct, omit_defaults=True):
    apiVersion: str = ""
    kind: str = ""
    name: str = ""
    namespace: str = ""


class _Event(msgspec.Struct, omit_defaults=True):
    metadata: Metadata
    type: str = ""
    reason: str = ""
    message: str = ""
    count: int | None = None
    eventTime: str | None = None
    lastTimestamp: str | None = None
    involvedObject: _Regarding = msgspec.field(default_factory=_Regarding)


def _document(resource: Resource) -> Projection[Document, CachedDocument]:
    def project(wire: Document) -> CachedDocument:
        meta = wire.metadata
        return CachedDocument(
            sys.intern(meta.namespace), meta.name, meta.uid, meta.resourceVersion, document_json(resource, wire)
        )

    return Projection(Document, project)


def document_json(resource: Resource, wire: Document) -> bytes:
    """The JSON the API shows for an object: metadata without bookkeeping, spec and status as they are."""
    # Items of a list come without apiVersion and kind; what we show has them always.
    shown: dict[str, Any] = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": wire.metadata}
    if bytes(wire.spec):
        shown["spec"] = wire.spec
    if bytes(wire.status):
        shown["status"] = wire.status
    return _encode(shown)


def _watched_pod(wire: _Pod) -> WatchedPod:
    meta, status = wire.metadata, wire.status
    owner = controller_of(meta.ownerReferences)
    return WatchedPod(
        sys.intern(meta.namespace),
        meta.name,
        meta.uid,
        meta.resourceVersion,
        sys.intern(meta.labels.get(labels.DEPLOYMENT, "")),
        sys.intern(meta.labels.get(labels.ENGINE, "")),
        "" if owner is None else sys.intern(owner.uid),
        status.podIP,
        wire.spec.hostNetwork or (status.podIP != "" and status.podIP == status.hostIP),
        any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions),
    )


def _object_event(wire: _Event) -> ObjectEvent:
    meta = wire.metadata
    return ObjectEvent(sys.intern(meta.namespace), meta.name, meta.uid, meta.resourceVersion, msgspec.json.encode(wire))


class ClusterCache:
    """Watches, and the log that every change is published to."""

    def __init__(self, client: KubeClient, log: EventLog, own_namespace: str) -> None:
        self.log = log
        self.pools = Informer(client, GPU_POOLS, _document(GPU_POOLS))
        self.deployments = Informer(client, SERVING_DEPLOYMENTS, _document(SERVING_DEPLOYMENTS))
        self.engine_pods = Informer(
            client, PODS, Projection(_Pod, _watched_pod), label_selector=f"{labels.LEADER}=true"
        )
        self.api_pods = Informer(
            client, PODS, Projection(_Pod, _watched_pod), namespace=own_namespace, label_selector=API_POD_SELECTOR
        )
        self.events = Informer(
            client,
            CORE_EVENTS,
            Projection(_Event, _object_event),
            field_selector=f"involvedObject.apiVersion={GROUP}/{VERSION}",
        )
        self.pools.add_handler(self._publisher("GPUPool"))
        self.deployments.add_handler(self._publisher("ServingDeployment"))
        self.events.add_handler(self._publish_event)

    @property
    def informers(self) -> tuple[Informer[Any, Any], ...]:
        return tuple(self.watches.values())

    @property
    def watches(self) -> Mapping[str, Informer[Any, Any]]:
        """Every watch by what it is for: two of them watch pods."""
        return {
            "gpupools": self.pools,
            "servingdeployments": self.deployments,
            "engine-pods": self.engine_pods,
            "api-pods": self.api_pods,
            "events": self.events,
        }

    @property
    def by_kind(self) -> Mapping[str, Informer[Document, CachedDocument]]:
        return {"GPUPool": self.pools, "ServingDeployment": self.deployments}

    @property
    def synced(self) -> bool:
        return all(informer.synced for informer in self.informers)

    async def state(self, kind: str) -> AsyncIterator[tuple[str | None, bytes]]:
        """Every object of a kind as (namespace, JSON)."""
        for row in self.by_kind[kind].store.values():
            yield row.namespace or None, row.json

    async def no_state(self) -> AsyncIterator[tuple[str | None, bytes]]:
        """Kubernetes events are happenings, not state: nothing to send on a fresh start."""
        return
        yield  # an async generator that ends at once

    def _publisher(self, kind: str) -> Any:
        def publish(old: CachedDocument | None, new: CachedDocument | None) -> None:
            row = new if new is not None else old
            # Before the first list is complete, rows are the state a reader gets anyway, not changes.
            if row is None or not self.by_kind[kind].synced or (old is not None and old is new):
                return
            change: Literal["added", "modified", "deleted"] = (
                "deleted" if new is None else "added" if old is None else "modified"
            )
            self.log.publish(Change(change, kind, row.namespace or None, row.name, row.json))

        return publish

    def _publish_event(self, _old: ObjectEvent | None, new: ObjectEvent | None) -> None:
        if new is not None and self.events.synced:
            self.log.publish(Change("event", "Event", new.namespace or None, new.name, new.json))
