"""Nodes and ResourceSlices as cached rows: the fields that facts are read from, compact and comparable."""

from __future__ import annotations

import msgspec

from controlplane.model import labels as keys
from controlplane.model.cluster import Taint
from controlplane.model.errors import InvalidSpec
from operators.pools.mapping import CONTROL_TAINTS, bad_status
from operators.runtime.objects import Labels, ObjectMeta, Wire, intern, intern_labels
from operators.workloads.podwire import Quantities
from operators.workloads.quantity import milli, whole

Amounts = tuple[tuple[str, int], ...]

_CAPACITY_MAX = 2**40
_DEVICES_MAX = 1024  # a slice holds at most 128 devices (resource.k8s.io/v1); more is not read


class TaintWire(Wire):
    key: str = ""
    value: str | None = None
    effect: str = ""


class NodeSpecWire(Wire):
    taints: list[TaintWire] | None = None
    unschedulable: bool | None = None


class NodeConditionWire(Wire):
    type: str = ""
    status: str = ""
    reason: str | None = None


class NodeStatusWire(Wire):
    allocatable: Quantities | None = None
    conditions: list[NodeConditionWire] | None = None


class NodeWire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: NodeSpecWire = msgspec.field(default_factory=NodeSpecWire)
    status: NodeStatusWire = msgspec.field(default_factory=NodeStatusWire)


class NodeView(msgspec.Struct, frozen=True, gc=False):
    """One node. `allocatable`: cpu in millicores, device resources in units. `problems`: bad conditions as
    `Type` or `Type: Reason`, NotReady aside."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    labels: Labels = ()
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    ready: bool = False
    quarantined: bool = False
    problems: tuple[str, ...] = ()
    allocatable: Amounts = ()

    def same_facts(self, other: NodeView) -> bool:
        """Equal but for the resource version: a heartbeat that says nothing new."""
        return (
            self.labels == other.labels
            and self.allocatable == other.allocatable
            and (self.ready, self.unschedulable, self.quarantined)
            == (other.ready, other.unschedulable, other.quarantined)
            and self.taints == other.taints
            and self.problems == other.problems
        )


def project_node(wire: NodeWire) -> NodeView:
    """Flatten a decoded node. Never raises: an unreadable quantity counts as absent."""
    meta = wire.metadata
    taints = tuple(Taint(intern(t.key), intern(t.value or ""), intern(t.effect)) for t in wire.spec.taints or ())
    present = {taint.key for taint in taints}
    ready, problems = _judge(wire.status.conditions or ())
    return NodeView(
        namespace="",
        name=intern(meta.name),
        uid=meta.uid,
        resource_version=meta.resourceVersion,
        labels=intern_labels(meta.labels),
        taints=tuple(t for t in taints if t.key not in CONTROL_TAINTS and t.key != keys.QUARANTINE_TAINT),
        unschedulable=bool(wire.spec.unschedulable) or "node.kubernetes.io/unschedulable" in present,
        ready=ready and not any(CONTROL_TAINTS.get(key) == "not ready" for key in present),
        quarantined=keys.QUARANTINE_TAINT in present,
        problems=problems,
        allocatable=_amounts(wire.status.allocatable or {}),
    )


def _judge(conditions: list[NodeConditionWire] | tuple[()]) -> tuple[bool, tuple[str, ...]]:
    ready = False
    problems = []
    for condition in conditions:
        if condition.type == "Ready":
            ready = condition.status == "True"
        elif condition.status == bad_status(condition.type):
            problems.append(f"{condition.type}: {condition.reason}" if condition.reason else condition.type)
    return ready, tuple(sorted(problems))


def _amounts(quantities: Quantities) -> Amounts:
    amounts = []
    for name, text in quantities.items():
        try:
            if name == "cpu":
                amounts.append(("cpu", min(milli(text), _CAPACITY_MAX)))
            elif "/" in name:
                amounts.append((intern(name), min(whole(text), _CAPACITY_MAX)))
        except InvalidSpec:
            continue
    return tuple(sorted(amounts))


class AttributeWire(Wire):
    string: str | None = None
    version: str | None = None
    integer: int | None = msgspec.field(default=None, name="int")
    truth: bool | None = msgspec.field(default=None, name="bool")


class CapacityWire(Wire):
    value: str | None = None


class BasicDeviceWire(Wire):
    attributes: dict[str, AttributeWire] | None = None
    capacity: dict[str, CapacityWire] | None = None


class DeviceWire(Wire):
    attributes: dict[str, AttributeWire] | None = None
    capacity: dict[str, CapacityWire] | None = None
    basic: BasicDeviceWire | None = None  # where v1beta1 keeps attributes and capacity
    taints: list[TaintWire] | None = None


class SlicePoolWire(Wire):
    name: str = ""
    generation: int = 0


class SliceSpecWire(Wire):
    driver: str = ""
    nodeName: str | None = None
    pool: SlicePoolWire = msgspec.field(default_factory=SlicePoolWire)
    devices: list[DeviceWire] | None = None


class SliceWire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: SliceSpecWire = msgspec.field(default_factory=SliceSpecWire)


class Device(msgspec.Struct, frozen=True, gc=False):
    """Devices of one kind on a node. `attributes`: names without their domain, as text; `tainted`: not for new pods."""

    attributes: tuple[tuple[str, str], ...]
    memory_bytes: int | None
    tainted: bool

    def attribute(self, *names: str) -> str | None:
        """The first of these attributes that is there."""
        for name in names:
            for key, value in self.attributes:
                if key == name:
                    return value
        return None


class SliceView(msgspec.Struct, frozen=True, gc=False):
    """One ResourceSlice of a node, its devices grouped: (kind of device, how many)."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    driver: str = ""
    node_name: str | None = None
    pool: str = ""
    generation: int = 0
    devices: tuple[tuple[Device, int], ...] = ()


_KEPT_ATTRIBUTES = frozenset(
    {
        "type",
        "productName",
        "model",
        "profile",
        "pciVendor",
        "pciDevice",
        "encapsulation",
        "rdma",
        "virtual",
        "isSriovVf",
    }
)


def project_slice(wire: SliceWire) -> SliceView:
    """Flatten a decoded slice. Never raises."""
    meta, spec = wire.metadata, wire.spec
    counts: dict[Device, int] = {}
    for item in (spec.devices or [])[:_DEVICES_MAX]:
        body = item.basic or item
        attributes = []
        for name, value in (body.attributes or {}).items():
            plain = name.rpartition("/")[2]
            text = _text(value)
            if plain in _KEPT_ATTRIBUTES and text is not None:
                attributes.append((plain, intern(text)))
        tainted = any(taint.effect in {"NoSchedule", "NoExecute"} for taint in item.taints or ())
        device = Device(tuple(sorted(attributes)), _memory(body.capacity), tainted)
        counts[device] = counts.get(device, 0) + 1
    return SliceView(
        namespace="",
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resourceVersion,
        driver=intern(spec.driver),
        node_name=intern(spec.nodeName) if spec.nodeName else None,
        pool=intern(spec.pool.name),
        generation=spec.pool.generation,
        devices=tuple(sorted(counts.items(), key=lambda pair: (pair[0].attributes, pair[0].tainted, pair[1]))),
    )


def _text(value: AttributeWire) -> str | None:
    if value.truth is not None:
        return "true" if value.truth else "false"
    return value.string or value.version or (None if value.integer is None else str(value.integer))


def _memory(capacity: dict[str, CapacityWire] | None) -> int | None:
    for name, value in (capacity or {}).items():
        if name.rpartition("/")[2] == "memory" and value.value is not None:
            try:
                return whole(value.value)
            except InvalidSpec:
                return None
    return None
