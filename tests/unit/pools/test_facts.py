"""Facts about nodes: which source wins, what is missing, what is never guessed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from controlplane.catalog import load
from controlplane.model.cluster import GPUPoolSpec, NodeFacts
from operators.pools.facts import node_facts
from operators.pools.lookup import Lookup
from operators.pools.rows import NodeView, NodeWire, SliceView, SliceWire, project_node, project_slice

LOOKUP = Lookup(load())
H100 = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.memory": "81559",
    "nvidia.com/gpu.count": "8",
}


def node(
    labels: dict[str, str] | None = None,
    allocatable: dict[str, str] | None = None,
    conditions: list[dict[str, str]] | None = None,
    **spec: Any,
) -> NodeView:
    body = {
        "metadata": {"name": "n1", "labels": labels or {}},
        "spec": spec,
        "status": {
            "allocatable": allocatable or {},
            "conditions": [{"type": "Ready", "status": "True"}, *(conditions or [])],
        },
    }
    return project_node(msgspec.json.decode(json.dumps(body), type=NodeWire))


def resource_slice(driver: str, devices: list[dict[str, Any]], generation: int = 1, name: str = "s") -> SliceView:
    body = {
        "metadata": {"name": name},
        "spec": {
            "driver": driver,
            "nodeName": "n1",
            "pool": {"name": "n1", "generation": generation},
            "devices": devices,
        },
    }
    return project_slice(msgspec.json.decode(json.dumps(body), type=SliceWire))


def facts(view: NodeView, *slices: SliceView, **spec: Any) -> NodeFacts:
    return node_facts(view, slices, GPUPoolSpec.model_validate(spec), LOOKUP)


def gpu(product: str = "NVIDIA H100 80GB HBM3", **more: Any) -> dict[str, Any]:
    attributes = {"type": {"string": "gpu"}, "productName": {"string": product}}
    return {"name": "gpu-0", "attributes": attributes, "capacity": {"memory": {"value": "81559Mi"}}, **more}


def test_gfd_labels_and_device_plugin() -> None:
    seen = facts(node(H100, {"nvidia.com/gpu": "8", "cpu": "128"}))
    assert (seen.accelerator, seen.resource, seen.capacity) == ("h100-sxm-80gb", "nvidia.com/gpu", 8)
    assert seen.sources["accelerator"] == "label nvidia.com/gpu.product"
    assert seen.sources["count"] == "allocatable nvidia.com/gpu"
    assert "nic" not in seen.sources and seen.nic_class is None and seen.nic_count is None


def test_resource_slices_come_before_labels_and_tainted_devices_do_not_count() -> None:
    bad = gpu(taints=[{"key": "gpu.nvidia.com/xid", "effect": "NoSchedule"}])
    seen = facts(
        node({"nvidia.com/gpu.product": "NVIDIA-L4"}), resource_slice("gpu.nvidia.com", [gpu(), gpu(), gpu(), bad])
    )
    assert (seen.accelerator, seen.capacity) == ("h100-sxm-80gb", 3)
    assert seen.sources["accelerator"] == "ResourceSlice gpu.nvidia.com"


def test_the_older_slice_shape_is_read_too() -> None:
    device = gpu()
    body = {"attributes": device.pop("attributes"), "capacity": device.pop("capacity")}
    seen = facts(node(), resource_slice("gpu.nvidia.com", [{**device, "basic": body}]))
    assert (seen.accelerator, seen.capacity) == ("h100-sxm-80gb", 1)


def test_only_the_newest_generation_of_a_drivers_pool_counts() -> None:
    old = resource_slice("gpu.nvidia.com", [gpu(), gpu()], generation=1, name="old")
    new = resource_slice("gpu.nvidia.com", [gpu()], generation=2, name="new")
    assert facts(node(), old, new).capacity == 1


def test_mig_devices_and_shared_gpus_are_no_whole_accelerators() -> None:
    mig = {"name": "m", "attributes": {"type": {"string": "mig"}, "productName": {"string": "NVIDIA H100 80GB HBM3"}}}
    assert facts(node(), resource_slice("gpu.nvidia.com", [mig])).accelerator is None
    assert facts(node({"nvidia.com/gpu.product": "NVIDIA-L4-SHARED"}, {"nvidia.com/gpu": "40"})).accelerator is None
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"}
    assert facts(node(labels, {"nvidia.com/gpu": "56"})).accelerator is None


def test_two_kinds_of_gpu_on_one_node_are_no_fact() -> None:
    seen = facts(node(), resource_slice("gpu.nvidia.com", [gpu(), gpu("NVIDIA L4")]))
    assert (seen.accelerator, seen.capacity) == (None, 0)


def test_fewer_from_the_plugin_than_in_the_slices_is_what_pods_can_get() -> None:
    seen = facts(node(H100, {"nvidia.com/gpu": "1"}), resource_slice("gpu.nvidia.com", [gpu(), gpu()]))
    assert seen.capacity == 1


def test_amd_labels() -> None:
    seen = facts(node({"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}, {"amd.com/gpu": "8"}))
    assert (seen.accelerator, seen.resource, seen.capacity) == ("mi300x-192gb", "amd.com/gpu", 8)


def test_the_cloud_node_type_names_accelerator_and_network() -> None:
    seen = facts(
        node(
            {"node.kubernetes.io/instance-type": "p5en.48xlarge"},
            {"nvidia.com/gpu": "8", "vpc.amazonaws.com/efa": "16"},
        )
    )
    assert (seen.accelerator, seen.nic_class, seen.nic_count) == ("h200-sxm-141gb", "efa-v3-200", 16)
    assert seen.sources["nic"] == "label node.kubernetes.io/instance-type"
    assert seen.sources["nicCount"] == "allocatable vpc.amazonaws.com/efa"


@pytest.mark.parametrize(
    ("labels", "accelerator"),
    [
        ({"kubernetes.io/arch": "amd64"}, "cpu-x86"),
        ({"kubernetes.io/arch": "amd64", "feature.node.kubernetes.io/cpu-cpuid.AMXBF16": "true"}, "cpu-x86-amx"),
        ({"kubernetes.io/arch": "arm64"}, None),
        # a GPU node before its plugin has started is no CPU node
        ({"kubernetes.io/arch": "amd64", "feature.node.kubernetes.io/pci-10de.present": "true"}, None),
        ({"kubernetes.io/arch": "amd64", "nvidia.com/gpu.present": "true"}, None),
    ],
)
def test_cpu_nodes(labels: dict[str, str], accelerator: str | None) -> None:
    seen = facts(node(labels, {"cpu": "7910m"}))
    assert seen.accelerator == accelerator
    assert seen.capacity == (7910 if accelerator else 0)


def test_a_pool_may_state_that_gpu_nodes_serve_on_their_cpus() -> None:
    seen = facts(node(H100, {"nvidia.com/gpu": "8", "cpu": "128"}), accelerator="cpu-x86-amx")
    assert (seen.resource, seen.capacity) == ("cpu", 128_000)
    assert seen.sources["accelerator"] == "spec.accelerator"


def test_what_the_pool_states_wins() -> None:
    labels = {**H100, "trimtab.dev/nic": "roce-400", "my/rack": "r7", "network.topology.nvidia.com/leaf": "leaf-1"}
    seen = facts(
        node(labels, {"nvidia.com/gpu": "8"}),
        nic={"class": "ib-ndr-400", "countPerNode": 4},
        topologyKeys={"rack": "my/rack"},
    )
    assert (seen.nic_class, seen.nic_count, seen.domains) == ("ib-ndr-400", 4, {"rack": "r7"})
    assert seen.sources["rack"] == "spec.topologyKeys.rack"


def test_domains_and_racks_named_again_in_each_block() -> None:
    labels = {
        "network.topology.nvidia.com/leaf": "l1",
        "network.topology.nvidia.com/spine": "s1",
        "network.topology.nvidia.com/core": "c1",
        "nvidia.com/gpu.clique": "uuid.1",
        "topology.kubernetes.io/zone": "z",
    }
    assert facts(node(labels)).domains == {
        "nvlink-domain": "uuid.1",
        "rack": "s1/l1",
        "block": "s1",
        "datacenter": "c1",
        "zone": "z",
    }


def nic(**attributes: dict[str, Any]) -> dict[str, Any]:
    return {"name": "nic", "attributes": {f"dra.net/{key}": value for key, value in attributes.items()}}


def test_dranet_counts_rdma_devices_but_not_their_virtual_functions() -> None:
    real = nic(rdma={"bool": True}, pciVendor={"string": "Amazon.com, Inc."})
    virtual = nic(rdma={"bool": True}, isSriovVf={"bool": True})
    plain = nic(rdma={"bool": False})
    seen = facts(node(), resource_slice("dra.net", [real, real, virtual, plain]))
    assert (seen.nic_class, seen.nic_count) == (None, 2)
    assert seen.sources["nicCount"] == "ResourceSlice dra.net"


def test_slots_of_a_shared_rdma_plugin_are_not_nics() -> None:
    assert facts(node(allocatable={"rdma/hca_shared_devices_a": "8"})).nic_count == 8
    assert facts(node(allocatable={"rdma/hca_shared_devices_a": "63"})).nic_count is None


@pytest.mark.parametrize(
    ("condition", "status", "ill"),
    [
        ("GpuUnhealthy", "True", True),
        ("GpuUnhealthy", "False", False),
        ("GpuXidError", "True", True),
        ("SysLogsXIDError", "True", True),
        ("NicHealthWatch", "True", True),
        ("GpuHealthy", "True", False),
        ("GpuHealthy", "False", True),
        ("AcceleratedHardwareReady", "False", True),
        ("KernelDeadlock", "True", True),
        ("NetworkUnavailable", "True", True),
        ("NetworkUnavailable", "False", False),
        ("MemoryPressure", "True", False),  # the kubelet taints for these
        ("TechnicalDebt", "True", False),
    ],
)
def test_conditions_that_make_a_node_unhealthy(condition: str, status: str, ill: bool) -> None:
    seen = facts(node(conditions=[{"type": condition, "status": status, "reason": "Why"}]))
    assert seen.unhealthy == (f"{condition}: Why" if ill else None)


def test_cordon_quarantine_readiness_and_taints() -> None:
    assert facts(node(unschedulable=True)).cordoned
    assert facts(node(taints=[{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}])).cordoned
    quarantined = facts(node(taints=[{"key": "trimtab.dev/quarantine", "value": "xid-79", "effect": "NoSchedule"}]))
    assert quarantined.quarantined and not quarantined.taints
    assert not facts(node(taints=[{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}])).ready
    (taint,) = facts(node(taints=[{"key": "team", "value": "x", "effect": "NoSchedule"}])).taints
    assert (taint.key, taint.value, taint.effect) == ("team", "x", "NoSchedule")
    assert not project_node(NodeWire()).ready


def test_unreadable_amounts_are_absent_and_absurd_ones_bounded() -> None:
    seen = facts(node(H100, {"nvidia.com/gpu": "many", "cpu": "1E"}))
    assert seen.capacity == 0 and "count" not in seen.sources
    assert facts(node(H100, {"nvidia.com/gpu": "9" * 18})).capacity == 2**40
