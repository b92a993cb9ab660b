"""Pools of accelerators: the `GPUPool` resource and the facts read from nodes."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from controlplane.model.resource import Condition, LabelKey, LabelValue, ObjectMeta, Part, StatusPart

# Topology levels from broad to narrow. The names are Grove's, plus the NVLink domain, which is a rack on GB200
# and a host on HGX boards, so it stands beside the tree rather than in it.
TopologyLevel = Literal["region", "zone", "datacenter", "block", "rack", "nvlink-domain", "host"]

# Different amounts of free room on a node that a pool tells of, most first.
FREE_NODES_MAX = 64


class LabelExpression(Part):
    """One requirement on node labels, as in a Kubernetes label selector."""

    key: LabelKey = Field(description="Label key.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How key and values relate.")
    values: list[LabelValue] = Field(
        default_factory=list,
        max_length=64,
        description="Values for In and NotIn; empty for Exists and DoesNotExist.",
    )


class NodeSelector(Part):
    """Which nodes belong to a pool: all labels and all expressions must match. Empty selects every node."""

    match_labels: dict[str, LabelValue] = Field(
        default_factory=dict, max_length=32, description="Labels a node must carry."
    )
    match_expressions: list[LabelExpression] = Field(
        default_factory=list, max_length=32, description="Requirements a node's labels must meet."
    )


class PoolNic(Part):
    """Stated network facts. What is stated wins over what is detected, and the status says so."""

    nic_class: str | None = Field(
        default=None,
        alias="class",
        max_length=63,
        description="NIC class from the catalogue, for example ib-ndr-400. Detected from the nodes when absent.",
    )
    count_per_node: int | None = Field(default=None, ge=0, le=64, description="NICs of that class on each node.")


class PoolToleration(Part):
    """A taint that this pool's nodes carry on purpose: such nodes count as usable and pods get the toleration."""

    key: LabelKey = Field(description="Taint key.")
    value: str | None = Field(default=None, max_length=63, description="Taint value; any value when absent.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect; every effect when absent."
    )


class Price(Part):
    """What one accelerator of this pool costs for an hour."""

    amount_per_accelerator_hour: float = Field(ge=0, le=100_000, description="Amount in the stated currency.")
    currency: str = Field(default="USD", pattern="^[A-Z]{3}$", description="ISO 4217 code.")


class GPUPoolSpec(Part):
    """Nodes that carry one kind of accelerator and are planned as one supply."""

    node_selector: NodeSelector = Field(default_factory=NodeSelector, description="Which nodes belong to this pool.")
    accelerator: str | None = Field(
        default=None,
        max_length=63,
        description="Accelerator from the catalogue, for example h100-sxm-80gb or cpu-x86. Detected from ResourceSlices, "
        "labels and capacity when absent; a pool whose nodes disagree is not Ready.",
    )
    nic: PoolNic = Field(default_factory=PoolNic, description="Network facts, where detection cannot know them.")
    topology_keys: dict[TopologyLevel, LabelKey] = Field(
        default_factory=dict,
        description="Node label that names a node's domain at each topology level. Well-known labels are used for levels "
        "not listed here.",
    )
    power_domain: str | None = Field(
        default=None, max_length=253, description="Name of the power domain that feeds these nodes."
    )
    price: Price | None = Field(default=None, description="Price used by planners; unknown when absent, never zero.")
    spare_nodes: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Healthy, empty nodes that placement keeps free as replacements.",
    )
    tolerations: list[PoolToleration] = Field(
        default_factory=list, max_length=16, description="Taints these nodes carry on purpose."
    )
    suspend: bool = Field(default=False, description="Place nothing new in this pool; what runs goes on.")


class FreeNodes(Part):
    """Nodes on which as much is free: pods never span nodes, so a sum says too little."""

    free: int = Field(ge=1, le=1_000_000, description="Accelerators free on each of them (CPU pools: whole cores).")
    nodes: int = Field(ge=1, le=1_000_000, description="How many nodes.")


class PoolFact(StatusPart):
    """Where a fact about the pool came from."""

    fact: str = Field(
        description="What is known or missing: accelerator, count, nic, nicCount, nvlink-domain, rack, block, health."
    )
    value: str | None = Field(
        default=None, description="The value when all nodes agree, a range or list when they differ."
    )
    source: str | None = Field(
        default=None, description="ResourceSlice, label key, capacity key, spec; absent when missing."
    )
    nodes: int = Field(default=0, description="Nodes on which this source gave the fact.")
    missing_nodes: int = Field(default=0, description="Nodes on which the fact is missing.")


class GPUPoolStatus(StatusPart):
    """What the pool holds now."""

    observed_generation: int = Field(default=0, description="The metadata.generation this status was computed from.")
    accelerator: str | None = Field(default=None, description="Accelerator stated or detected.")
    nic: str | None = Field(default=None, description="NIC class stated or detected.")
    nodes: int = Field(default=0, description="Nodes the selector matches.")
    ready_nodes: int = Field(default=0, description="Of these, Ready, not cordoned and not quarantined.")
    quarantined_nodes: int = Field(default=0, description="Nodes under the trimtab.dev/quarantine taint.")
    spare_nodes: int = Field(default=0, description="Empty healthy nodes kept free now.")
    accelerators: int = Field(default=0, description="Accelerators on all nodes (CPU pools: whole cores).")
    free_accelerators: int = Field(default=0, description="Not requested by any pod, on usable nodes, spares excluded.")
    largest_free_block: int = Field(default=0, description="Most free accelerators on one node.")
    free_nodes: list[FreeNodes] = Field(
        default_factory=list,
        max_length=FREE_NODES_MAX,
        description="How much is free on how many nodes, most first: how many large replicas really fit.",
    )
    facts: list[PoolFact] = Field(
        default_factory=list,
        max_length=32,
        description="Which source each fact came from, and what is missing.",
    )
    conditions: list[Condition] = Field(default_factory=list, max_length=16, description="Standard conditions.")


class GPUPool(StatusPart):
    """A `GPUPool` as read from the API server."""

    metadata: ObjectMeta
    spec: GPUPoolSpec = Field(default_factory=GPUPoolSpec)
    status: GPUPoolStatus = Field(default_factory=GPUPoolStatus)


@dataclass(frozen=True, slots=True)
class Taint:
    """A node taint."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node as placement sees it. Units: accelerators, or millicores where `accelerator` is a CPU.

    `None` means unknown. `sources` maps a fact's name to where it was read.
    """

    name: str
    accelerator: str | None
    resource: str | None
    capacity: int
    nic_class: str | None
    nic_count: int | None
    domains: dict[str, str]
    taints: tuple[Taint, ...] = ()
    ready: bool = True
    cordoned: bool = False
    quarantined: bool = False
    unhealthy: str | None = None
    sources: dict[str, str] = field(default_factory=dict)
