"""Services, budgets and routing of a deployment as cached rows: just what we write, so that drift shows as inequality."""

from __future__ import annotations

from typing import Any

import msgspec

from controlplane.model import labels as keys
from operators.runtime import ObjectMeta, Row, Wire, controller_of, intern, label, pick_labels
from operators.runtime.objects import Labels

SERVICES = "services"
BUDGETS = "poddisruptionbudgets"

Shape = tuple[Any, ...]
"""The fields of an object that its rendering sets, comparable; owner first."""


class _Port(Wire):
    name: str = ""
    port: int = 0
    targetPort: int | str = 0
    protocol: str = "TCP"


class _ServiceSpec(Wire):
    type: str = "ClusterIP"
    clusterIP: str = ""
    publishNotReadyAddresses: bool = False
    selector: dict[str, str] = msgspec.field(default_factory=dict)
    ports: list[_Port] = msgspec.field(default_factory=list)


class ServiceWire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: _ServiceSpec = msgspec.field(default_factory=_ServiceSpec)


class _LabelSelector(Wire):
    matchLabels: dict[str, str] = msgspec.field(default_factory=dict)


class _BudgetSpec(Wire):
    minAvailable: int | str | None = None
    maxUnavailable: int | str | None = None
    unhealthyPodEvictionPolicy: str = "IfHealthyBudget"
    selector: _LabelSelector = msgspec.field(default_factory=_LabelSelector)


class BudgetWire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: _BudgetSpec = msgspec.field(default_factory=_BudgetSpec)


class _RoutedStatus(Wire):
    readyReplicas: int = 0


class RoutedWire(Wire):
    """A router's Deployment or an object for a gateway: only who owns it, what was applied, and whether it answers."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    status: _RoutedStatus = msgspec.field(default_factory=_RoutedStatus)


class OwnedRow(Row):
    """`deployment`: name of the ServingDeployment its label gives. `ready_pods`: of a router's Deployment."""

    deployment: str
    shape: Shape
    ready_pods: int = 0

    @property
    def owner_uid(self) -> str:
        """uid of the controlling owner; empty without one."""
        return owner_of(self.shape)


def owner_of(shape: Shape) -> str:
    """uid of the controlling owner; empty without one."""
    return str(shape[0])


def service_row(wire: ServiceWire) -> OwnedRow:
    """Cached form of a Service."""
    return _row(wire.metadata, _service_shape(wire))


def budget_row(wire: BudgetWire) -> OwnedRow:
    """Cached form of a PodDisruptionBudget."""
    return _row(wire.metadata, _budget_shape(wire))


def routed_row(wire: RoutedWire) -> OwnedRow:
    """Cached form of an object that stands between clients and replicas."""
    row = _row(wire.metadata, _routed_shape(wire))
    row.ready_pods = wire.status.readyReplicas
    return row


def shape_of(resource: str, manifest: dict[str, Any]) -> Shape:
    """The shape a rendered manifest will have once applied."""
    if resource == SERVICES:
        return _service_shape(msgspec.convert(manifest, ServiceWire))
    if resource != BUDGETS:
        return _routed_shape(msgspec.convert(manifest, RoutedWire))
    return _budget_shape(msgspec.convert(manifest, BudgetWire))


def _row(meta: ObjectMeta, shape: Shape) -> OwnedRow:
    ours: Labels = pick_labels(meta.labels, (keys.DEPLOYMENT,))
    return OwnedRow(
        intern(meta.namespace), meta.name, meta.uid, meta.resourceVersion, label(ours, keys.DEPLOYMENT) or "", shape
    )


def _service_shape(wire: ServiceWire) -> Shape:
    spec = wire.spec
    ports = tuple((port.name, port.port, port.targetPort, port.protocol) for port in spec.ports)
    return (
        _owner(wire.metadata),
        spec.type,
        spec.clusterIP == "None",
        spec.publishNotReadyAddresses,
        tuple(sorted(spec.selector.items())),
        ports,
    )


def _budget_shape(wire: BudgetWire) -> Shape:
    spec = wire.spec
    return (
        _owner(wire.metadata),
        spec.minAvailable,
        spec.maxUnavailable,
        spec.unhealthyPodEvictionPolicy,
        tuple(sorted(spec.selector.matchLabels.items())),
    )


def _routed_shape(wire: RoutedWire) -> Shape:
    return (_owner(wire.metadata), wire.metadata.annotations.get(keys.RENDERED, ""))


def _owner(meta: ObjectMeta) -> str:
    owner = controller_of(meta.ownerReferences)
    return "" if owner is None else owner.uid
