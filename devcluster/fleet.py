"""The simulated nodes: `fleet.toml` turned into Node and ResourceSlice objects, the same ones on every machine."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devcluster.errors import DevclusterError
from devcluster.paths import PACKAGE

if TYPE_CHECKING:
    from devcluster.cluster import Cluster

FAKE_ANNOTATION = {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"}
FAKE_TAINT = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
FAKE_LABEL = "trimtab.dev/node"
DIGEST_ANNOTATION = "trimtab.dev/fleet-digest"
GROUP_LABEL = "trimtab.dev/fleet"
PODS_PER_NODE = "110"
FIELD_MANAGER = "trimtab-devcluster"

Object = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Equal nodes, as described in fleet.toml."""

    name: str
    share: float
    nodes_per_rack: int
    racks_per_block: int
    machine: dict[str, str]
    extended: dict[str, int]
    labels: dict[str, str]


@dataclass(frozen=True)
class Fleet:
    """Everything in fleet.toml."""

    groups: tuple[Group, ...]
    exceptions: tuple[dict[str, Any], ...]
    dra_group: str
    dra_nodes: int


def load() -> Fleet:
    """Read fleet.toml."""
    with (PACKAGE / "fleet.toml").open("rb") as file:
        data = tomllib.load(file)
    groups = tuple(Group(**group) for group in data["group"])
    return Fleet(groups, tuple(data["exception"]), data["dra"]["group"], data["dra"]["nodes"])


def split(total: int, shares: list[float]) -> list[int]:
    """Share `total` out in whole numbers by largest remainder; the parts always add up to `total`."""
    weight = sum(shares)
    if weight <= 0:
        raise DevclusterError("the shares of fleet.toml add up to nothing")
    exact = [total * share / weight for share in shares]
    parts = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def node_objects(fleet: Fleet, total: int) -> list[Object]:
    """`total` Node objects, mixed as the shares say."""
    counts = split(total, [group.share for group in fleet.groups])
    nodes = []
    for group, count in zip(fleet.groups, counts, strict=True):
        exceptions = [item for item in fleet.exceptions if item["group"] == group.name]
        for index in range(count):
            node = _node(group, index)
            for item in exceptions:
                if index % item["every"] == item["offset"]:
                    _make_exception(node, item)
            nodes.append(node)
    return nodes


def _node(group: Group, index: int) -> Object:
    name = f"{group.name}-{index + 1:03d}"
    rack_number = index // group.nodes_per_rack
    words = {
        "index": str(index + 1),
        "rack_node": str(index % group.nodes_per_rack + 1),
        "rack": str(rack_number % group.racks_per_block + 1),
        "block": str(rack_number // group.racks_per_block + 1),
        "domain": f"{rack_number + 1:02d}",
        "hash": hashlib.sha256(name.encode()).hexdigest()[:12],
    }
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "type": "kwok",
        FAKE_LABEL: "simulated",
        GROUP_LABEL: group.name,
        "topology.trimtab.dev/block": f"{group.name}-b{words['block']}",
        "topology.trimtab.dev/rack": f"{group.name}-b{words['block']}-r{words['rack']}",
    }
    labels.update({key: value.format(**words) for key, value in group.labels.items()})
    amounts = {**group.machine, **{key: str(value) for key, value in group.extended.items()}, "pods": PODS_PER_NODE}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": dict(FAKE_ANNOTATION)},
        "spec": {"taints": [dict(FAKE_TAINT)]},
        "status": {"capacity": amounts, "allocatable": dict(amounts)},
    }


def _make_exception(node: Object, item: dict[str, Any]) -> None:
    if item["what"] == "cordoned":
        node["spec"]["unschedulable"] = True
    elif item["what"] == "taint":
        node["spec"]["taints"].append(dict(item["taint"]))
    elif item["what"] == "condition":
        node["status"]["conditions"] = [dict(item["condition"])]
    else:
        raise DevclusterError(f"fleet.toml: exception {item['what']!r}: use cordoned, taint or condition")


def resource_slices(fleet: Fleet, nodes: list[Object]) -> list[Object]:
    """Devices of the DRA group: one gpu.nvidia.com and one dra.net slice per node, numbers as the drivers write them."""
    members = [node for node in nodes if node["metadata"]["labels"][GROUP_LABEL] == fleet.dra_group][: fleet.dra_nodes]
    slices = []
    for node in members:
        name, labels = node["metadata"]["name"], node["metadata"]["labels"]
        count = int(labels["nvidia.com/gpu.count"])
        gpus = [_gpu_device(name, number, labels) for number in range(count)]
        nics = [_nic_device(number) for number in range(count)]
        slices += [_slice(name, "gpu.nvidia.com", gpus), _slice(name, "dra.net", nics)]
    return slices


def _gpu_device(node: str, number: int, labels: dict[str, str]) -> Object:
    identity = hashlib.sha256(f"{node}/{number}".encode()).hexdigest()
    uuid = f"GPU-{identity[:8]}-{identity[8:12]}-{identity[12:16]}-{identity[16:20]}-{identity[20:32]}"
    product = labels["nvidia.com/gpu.product"].replace("-", " ")
    capability = f"{labels['nvidia.com/gpu.compute.major']}.{labels['nvidia.com/gpu.compute.minor']}.0"
    attributes = {
        "type": {"string": "gpu"},
        "uuid": {"string": uuid},
        "productName": {"string": product},
        "brand": {"string": "Nvidia"},
        "architecture": {"string": labels["nvidia.com/gpu.family"].capitalize()},
        "cudaComputeCapability": {"version": capability},
        "driverVersion": {"version": "580.82.7"},
        "resource.kubernetes.io/pcieRoot": {"string": f"pci{number:04x}:00"},
    }
    return {
        "name": f"gpu-{number}",
        "attributes": attributes,
        "capacity": {"memory": {"value": f"{labels['nvidia.com/gpu.memory']}Mi"}},
    }


def _nic_device(number: int) -> Object:
    attributes = {
        "ifName": {"string": f"ibp{number}"},
        "rdma": {"bool": True},
        "rdmaDevice": {"string": f"mlx5_{number}"},
        "encapsulation": {"string": "infiniband"},
        "pciVendor": {"string": "Mellanox Technologies"},
        "pciDevice": {"string": "MT2910 Family [ConnectX-7]"},
        "numaNode": {"int": number // 4},
        "resource.kubernetes.io/pcieRoot": {"string": f"pci{number:04x}:00"},
    }
    prefixed = {key if "/" in key else f"dra.net/{key}": value for key, value in attributes.items()}
    return {"name": f"nic-{number}", "attributes": prefixed}


def _slice(node: str, driver: str, devices: list[Object]) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{node}-{driver.replace('.', '-')}", "labels": {FAKE_LABEL: "simulated"}},
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": devices,
        },
    }


def with_digest(node: Object) -> Object:
    """The node, annotated with a hash over what is wanted of it."""
    digest = hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()[:16]
    node["metadata"]["annotations"][DIGEST_ANNOTATION] = digest
    return node


def ensure(cluster: Cluster, note: Callable[[str], None]) -> str:
    """Make the cluster's simulated nodes what fleet.toml says: create, correct and delete."""
    fleet = load()
    nodes = [with_digest(node) for node in node_objects(fleet, cluster.plan.kwok_nodes)]
    wanted = {node["metadata"]["name"]: node["metadata"]["annotations"][DIGEST_ANNOTATION] for node in nodes}
    escaped = DIGEST_ANNOTATION.replace(".", "\\.")
    template = f'{{range .items[*]}}{{.metadata.name}} {{.metadata.annotations.{escaped}}}{{"\\n"}}{{end}}'
    listed = cluster.kubectl("get", "nodes", "-l", f"{FAKE_LABEL}=simulated", "-o", f"jsonpath={template}")
    present = dict([*line.split(), ""][:2] for line in listed.splitlines() if line.strip())
    surplus = sorted(present.keys() - wanted.keys())
    if surplus:
        cluster.kubectl("delete", "nodes", "--wait=false", *surplus)
    changed = [node for node in nodes if present.get(node["metadata"]["name"]) != wanted[node["metadata"]["name"]]]
    if changed:
        api = cluster.api()
        api.apply_all("/api/v1/nodes", changed, FIELD_MANAGER, lambda count: note(f"{count} of {len(changed)}"))
        slices = resource_slices(fleet, nodes)
        api.apply_all("/apis/resource.k8s.io/v1/resourceslices", slices, FIELD_MANAGER, lambda _: None)
    return f"{len(nodes)} nodes, {len(changed)} of them written"
