"""The few of a pod's hundred fields that the decoder takes from the API server's JSON."""

from __future__ import annotations

from datetime import datetime

import msgspec

from controlplane.model import labels

Quantities = dict[str, str | int | float]


class _Wire(msgspec.Struct, rename="camel", gc=False):
    """Base of wire structs: camelCase keys, unknown fields skipped."""


class OwnerWire(_Wire):
    uid: str = ""
    controller: bool | None = None


class LabelsWire(msgspec.Struct, gc=False):
    """Our labels as fields, which costs less than a dict of all labels there are."""

    deployment: str | None = msgspec.field(default=None, name=labels.DEPLOYMENT)
    revision: str | None = msgspec.field(default=None, name=labels.REVISION)
    replica: str | None = msgspec.field(default=None, name=labels.REPLICA)
    rank: str | None = msgspec.field(default=None, name=labels.RANK)
    pool: str | None = msgspec.field(default=None, name=labels.POOL)
    accelerator: str | None = msgspec.field(default=None, name=labels.ACCELERATOR)
    engine: str | None = msgspec.field(default=None, name=labels.ENGINE)
    role: str | None = msgspec.field(default=None, name=labels.ROLE)


class AnnotationsWire(msgspec.Struct, gc=False):
    """Our annotations as fields."""

    units: str | None = msgspec.field(default=None, name=labels.UNITS)
    choice: str | None = msgspec.field(default=None, name=labels.CHOICE)


class MetaWire(_Wire):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: LabelsWire | None = None
    annotations: AnnotationsWire | None = None
    owner_references: list[OwnerWire] | None = None


class ResourcesWire(_Wire):
    requests: Quantities | None = None


class ContainerWire(_Wire):
    resources: ResourcesWire | None = None
    restart_policy: str | None = None


class RequirementWire(_Wire):
    key: str = ""
    operator: str = ""
    values: list[str] | None = None


class TermWire(_Wire):
    match_fields: list[RequirementWire] | None = None
    match_expressions: list[RequirementWire] | None = None


class RequiredWire(_Wire):
    node_selector_terms: list[TermWire] | None = None


class NodeAffinityWire(_Wire):
    required_during_scheduling_ignored_during_execution: RequiredWire | None = None


class AffinityWire(_Wire):
    node_affinity: NodeAffinityWire | None = None


class GateWire(_Wire):
    name: str = ""


class SpecWire(_Wire):
    node_name: str | None = None
    containers: list[ContainerWire] | None = None
    init_containers: list[ContainerWire] | None = None
    overhead: Quantities | None = None
    resources: ResourcesWire | None = None
    affinity: AffinityWire | None = None
    scheduling_gates: list[GateWire] | None = None


class ConditionWire(_Wire):
    type: str = ""
    status: str = ""
    reason: str | None = None
    message: str | None = None
    last_transition_time: str | None = None  # a pod has five conditions; one of these times is looked at


class WaitingWire(_Wire):
    reason: str | None = None
    message: str | None = None


class TerminatedWire(_Wire):
    exit_code: int = 0
    reason: str | None = None


class StateWire(_Wire):
    waiting: WaitingWire | None = None
    terminated: TerminatedWire | None = None


class ContainerStatusWire(_Wire):
    restart_count: int = 0
    state: StateWire | None = None
    last_state: StateWire | None = None


class StatusWire(_Wire):
    phase: str | None = None
    reason: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    nominated_node_name: str | None = None
    start_time: datetime | None = None
    conditions: list[ConditionWire] | None = None
    container_statuses: list[ContainerStatusWire] | None = None
    init_container_statuses: list[ContainerStatusWire] | None = None


class PodWire(_Wire):
    """A pod as decoded from the API server."""

    metadata: MetaWire
    spec: SpecWire = msgspec.field(default_factory=SpecWire)
    status: StatusWire = msgspec.field(default_factory=StatusWire)
