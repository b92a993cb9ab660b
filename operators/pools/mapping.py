"""Where facts about a node come from: one table, most trusted source first.

Facts and keys follow the discovery projects' own documents: NVIDIA GPU Feature Discovery, Node Feature Discovery,
NVIDIA's and AMD's DRA drivers, DraNet, Topograph, AMD's and Intel's node labellers, the clouds' topology labels.
`docs/node-facts.md` shows this table; a test keeps the two in step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["spec", "slice", "label", "allocatable", "condition", "taint"]
Fact = Literal[
    "accelerator",
    "count",
    "nic",
    "nicCount",
    "nvlink-domain",
    "rack",
    "block",
    "datacenter",
    "zone",
    "region",
    "health",
]


@dataclass(frozen=True, slots=True)
class Source:
    """One place where a fact is read. `key`: label, resource (`*` matches the rest), driver, condition or spec field.

    `reading`: how the value becomes the fact; each reading is a function in `facts.py`.
    """

    fact: Fact
    kind: Kind
    key: str
    reading: str
    by: str


TABLE: tuple[Source, ...] = (
    # accelerator: catalogue id
    Source("accelerator", "spec", "accelerator", "stated", "the GPUPool"),
    Source("accelerator", "slice", "gpu.nvidia.com", "product", "NVIDIA DRA driver: type gpu, productName, memory"),
    Source("accelerator", "slice", "gpu.amd.com", "product", "AMD DRA driver: type amdgpu, productName"),
    Source("accelerator", "slice", "gpu.intel.com", "product", "Intel DRA driver: model"),
    Source("accelerator", "slice", "gaudi.intel.com", "product", "Intel Gaudi DRA driver: model"),
    Source(
        "accelerator", "label", "nvidia.com/gpu.product", "product", "GPU Feature Discovery, with nvidia.com/gpu.memory"
    ),
    Source("accelerator", "label", "amd.com/gpu.product-name", "product", "AMD node labeller"),
    Source("accelerator", "label", "beta.amd.com/gpu.product-name", "product", "AMD node labeller, older releases"),
    Source("accelerator", "label", "gpu.intel.com/product", "product", "Intel NFD rules"),
    Source("accelerator", "label", "node.kubernetes.io/instance-type", "instance-type", "cloud provider"),
    Source(
        "accelerator", "label", "feature.node.kubernetes.io/cpu-cpuid.AMXBF16", "cpu-amx", "NFD, nodes without GPUs"
    ),
    Source("accelerator", "label", "kubernetes.io/arch", "cpu-arch", "kubelet, nodes without GPUs"),
    # count: devices, millicores for a CPU
    Source("count", "slice", "gpu.nvidia.com", "devices", "NVIDIA DRA driver, untainted devices"),
    Source("count", "slice", "gpu.amd.com", "devices", "AMD DRA driver, untainted devices"),
    Source("count", "slice", "gpu.intel.com", "devices", "Intel DRA driver, untainted devices"),
    Source("count", "slice", "gaudi.intel.com", "devices", "Intel Gaudi DRA driver, untainted devices"),
    Source("count", "allocatable", "*", "resource", "device plugin: the accelerator's resource in the catalogue"),
    # network between nodes: class, and how many of it
    Source("nic", "spec", "nic.class", "stated", "the GPUPool"),
    Source("nic", "label", "trimtab.dev/nic", "class", "an administrator, per node"),
    Source("nic", "slice", "dra.net", "pci", "DraNet: pciVendor, pciDevice, encapsulation of RDMA devices"),
    Source("nic", "allocatable", "vpc.amazonaws.com/efa", "resource-class", "EFA device plugin, when one class has it"),
    Source("nic", "label", "node.kubernetes.io/instance-type", "instance-type", "cloud provider"),
    Source("nicCount", "spec", "nic.countPerNode", "stated", "the GPUPool"),
    Source("nicCount", "slice", "dra.net", "rdma-devices", "DraNet: RDMA devices, virtual functions aside"),
    Source("nicCount", "allocatable", "vpc.amazonaws.com/efa", "amount", "EFA device plugin"),
    Source("nicCount", "allocatable", "nvidia.com/*rdma*", "amount", "NVIDIA network operator, SR-IOV"),
    Source("nicCount", "allocatable", "rdma/*", "small-amount", "RDMA plugin; above 16 they are slots, not NICs"),
    # domains, each level; spec.topologyKeys of the GPUPool names another label
    Source("nvlink-domain", "spec", "topologyKeys.nvlink-domain", "domain", "the GPUPool"),
    Source(
        "nvlink-domain", "label", "nvidia.com/gpu.clique", "domain", "GPU Feature Discovery: cluster UUID and clique"
    ),
    Source("nvlink-domain", "label", "network.topology.nvidia.com/accelerator", "domain", "Topograph"),
    Source("rack", "spec", "topologyKeys.rack", "domain", "the GPUPool"),
    Source("rack", "label", "network.topology.nvidia.com/leaf", "domain", "Topograph"),
    Source("rack", "label", "topology.k8s.aws/network-node-layer-3", "domain", "AWS"),
    Source("rack", "label", "cloud.google.com/gce-topology-subblock", "domain", "Google Cloud"),
    Source("rack", "label", "oci.oraclecloud.com/host.rack_id", "domain", "Oracle Cloud"),
    Source("rack", "label", "cloud.provider.com/topology-rack", "domain", "as in Kueue's examples"),
    Source("rack", "label", "topology.trimtab.dev/rack", "domain", "an administrator"),
    Source("block", "spec", "topologyKeys.block", "domain", "the GPUPool"),
    Source("block", "label", "network.topology.nvidia.com/spine", "domain", "Topograph"),
    Source("block", "label", "topology.k8s.aws/network-node-layer-2", "domain", "AWS"),
    Source("block", "label", "cloud.google.com/gce-topology-block", "domain", "Google Cloud"),
    Source("block", "label", "oci.oraclecloud.com/host.network_block_id", "domain", "Oracle Cloud"),
    Source("block", "label", "cloud.provider.com/topology-block", "domain", "as in Kueue's examples"),
    Source("block", "label", "topology.trimtab.dev/block", "domain", "an administrator"),
    Source("datacenter", "spec", "topologyKeys.datacenter", "domain", "the GPUPool"),
    Source("datacenter", "label", "network.topology.nvidia.com/core", "domain", "Topograph"),
    Source("datacenter", "label", "topology.k8s.aws/network-node-layer-1", "domain", "AWS"),
    Source("zone", "spec", "topologyKeys.zone", "domain", "the GPUPool"),
    Source("zone", "label", "topology.kubernetes.io/zone", "domain", "Kubernetes"),
    Source("region", "spec", "topologyKeys.region", "domain", "the GPUPool"),
    Source("region", "label", "topology.kubernetes.io/region", "domain", "Kubernetes"),
    # health: a node that fails one of these takes nothing new
    Source("health", "condition", "Ready", "ready", "kubelet"),
    Source(
        "health",
        "condition",
        "*Gpu* *Xid* *NVLink* *NVSwitch* *Nic* *Infiniband* *Rdma*",
        "bad-when-true",
        "NVSentinel",
    ),
    Source("health", "condition", "KernelDeadlock ReadonlyFilesystem", "bad-when-true", "node-problem-detector"),
    Source("health", "condition", "NetworkUnavailable", "bad-when-true", "network plugin"),
    Source("health", "condition", "*Healthy *Ready", "bad-when-false", "node monitoring agents"),
    Source("health", "taint", "trimtab.dev/quarantine", "quarantine", "Trimtab and administrators"),
)

# Labels that say a node carries GPUs, whether or not a plugin offers them: such a node is never taken for a CPU node.
GPU_SIGNS: tuple[str, ...] = (
    "nvidia.com/gpu.present",
    "nvidia.com/gpu.count",
    "feature.node.kubernetes.io/pci-10de.present",
    "feature.node.kubernetes.io/amd-gpu",
    "amd.com/gpu.device-id",
    "gpu.intel.com/device-id.0380-56c0.present",
    "feature.node.kubernetes.io/pci-1002.present",
)

# DRA drivers and the value of their `type` attribute that marks a whole device.
WHOLE_DEVICE_TYPES: dict[str, frozenset[str | None]] = {
    "gpu.nvidia.com": frozenset({"gpu"}),
    "gpu.amd.com": frozenset({"amdgpu"}),
    "gpu.intel.com": frozenset({None, "gpu"}),
    "gaudi.intel.com": frozenset({None}),
}

# Above this an `rdma/*` amount counts slots of a shared device plugin; real nodes carry at most 16 such NICs.
RDMA_AMOUNT_MAX = 16

_BAD_WHEN_FALSE = re.compile(r"(Healthy|Ready)$")
_BAD_WHEN_TRUE = re.compile(
    r"(?i:gpu|xid|nvlink|nvswitch|infiniband|rdma)|(^|[a-z])N(ic|IC)([A-Z_]|$)"
    r"|^(KernelDeadlock|ReadonlyFilesystem|NetworkUnavailable)$"
)

# Taints by which the node controller repeats what node fields and conditions already say.
CONTROL_TAINTS: dict[str, str] = {
    "node.kubernetes.io/not-ready": "not ready",
    "node.kubernetes.io/unreachable": "not ready",
    "node.kubernetes.io/unschedulable": "cordoned",
    "node.kubernetes.io/network-unavailable": "not ready",
    "node.cloudprovider.kubernetes.io/uninitialized": "not ready",
    "node.cloudprovider.kubernetes.io/shutdown": "not ready",
}


def bad_status(condition_type: str) -> str | None:
    """The status of a node condition that makes the node unhealthy; None for conditions that are not about that."""
    if _BAD_WHEN_FALSE.search(condition_type):
        return "False"
    return "True" if _BAD_WHEN_TRUE.search(condition_type) else None


def sources_of(fact: Fact) -> tuple[Source, ...]:
    """The sources of a fact, most trusted first."""
    return tuple(source for source in TABLE if source.fact == fact)


def markdown() -> str:
    """The table as `docs/node-facts.md` shows it."""
    lines = ["| Fact | Kind | Key | Read as | Written by |", "|---|---|---|---|---|"]
    lines += [f"| {s.fact} | {s.kind} | `{s.key}` | {s.reading} | {s.by} |" for s in TABLE]
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown() + "\n")
