"""One node's facts, each read from the most trusted source that has it. Pure.

What no source has is left out and shows as missing; nothing is guessed. A pool's own statements come first: an
administrator may know what discovery cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from controlplane.model.cluster import GPUPoolSpec, NodeFacts
from operators.pools.lookup import Lookup
from operators.pools.mapping import GPU_SIGNS, RDMA_AMOUNT_MAX, WHOLE_DEVICE_TYPES, Fact, Source, sources_of
from operators.pools.rows import Device, NodeView, SliceView

_DOMAIN_FACTS: tuple[Fact, ...] = ("nvlink-domain", "rack", "block", "datacenter", "zone", "region")
_VALUE_MAX = 253
_SHARED_MAX = 4096
_shared_sources: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}


@dataclass(slots=True)
class _Node:
    """Everything a reading may look at."""

    view: NodeView
    labels: Mapping[str, str]
    amounts: Mapping[str, int]
    devices: Mapping[str, Sequence[tuple[Device, int]]]
    spec: GPUPoolSpec
    lookup: Lookup
    accelerator: str | None = None


def node_facts(node: NodeView, slices: Iterable[SliceView], spec: GPUPoolSpec, lookup: Lookup) -> NodeFacts:
    """What placement needs to know of a node in a pool, and where each fact was read."""
    seen = _Node(node, dict(node.labels), dict(node.allocatable), _newest(slices), spec, lookup)
    sources: dict[str, str] = {}
    seen.accelerator = accelerator = _text(_read(seen, "accelerator", sources))
    count = _read(seen, "count", sources)
    nic = _text(_read(seen, "nic", sources))
    nic_count = _read(seen, "nicCount", sources)
    domains = _domains(seen, sources)
    sources["health"] = "node conditions"
    resource = lookup.resource(accelerator)
    return NodeFacts(
        name=node.name,
        accelerator=accelerator,
        resource=resource,
        capacity=count if isinstance(count, int) else 0,
        nic_class=nic,
        nic_count=nic_count if isinstance(nic_count, int) else None,
        domains=domains,
        taints=node.taints,
        ready=node.ready,
        cordoned=node.unschedulable,
        quarantined=node.quarantined,
        unhealthy=", ".join(node.problems) or None,
        sources=_share(sources),
    )


def _read(seen: _Node, fact: Fact, sources: dict[str, str]) -> str | int | None:
    for source in sources_of(fact):
        value = _READINGS[source.reading](seen, source)
        if value is not None:
            sources[fact] = _name(source, seen)
            return value
    return None


def _domains(seen: _Node, sources: dict[str, str]) -> dict[str, str]:
    domains: dict[str, str] = {}
    for fact in _DOMAIN_FACTS:
        value = _text(_read(seen, fact, sources))
        if value is not None:
            domains[fact] = value
    if "rack" in domains and "block" in domains:
        # Rack names repeat between blocks on some platforms (Kueue's topology assumes no global uniqueness either).
        domains["rack"] = f"{domains['block']}/{domains['rack']}"
    return domains


# ---- readings


def _stated(seen: _Node, source: Source) -> str | int | None:
    spec = seen.spec
    return {"accelerator": spec.accelerator, "nic": spec.nic.nic_class, "nicCount": spec.nic.count_per_node}[
        source.fact
    ]


def _product(seen: _Node, source: Source) -> str | None:
    if source.kind == "label":
        product = seen.labels.get(source.key)
        memory_mib = seen.labels.get("nvidia.com/gpu.memory", "") if source.key.startswith("nvidia") else ""
        memory = int(memory_mib) * 2**20 if memory_mib.isascii() and memory_mib.isdigit() else None
        return None if product is None else seen.lookup.product(product[:_VALUE_MAX], memory)
    found = set()
    for device, _ in _whole(seen, source.key):
        product = device.attribute("productName", "model")
        found.add(None if product is None else seen.lookup.product(product, device.memory_bytes))
    return found.pop() if len(found) == 1 else None  # a node with two kinds of GPU is no fact


def _instance_type(seen: _Node, source: Source) -> str | None:
    kind = seen.labels.get(source.key)
    if kind is None:
        return None
    return seen.lookup.nic_of_instance_type(kind) if source.fact == "nic" else seen.lookup.instance_type(kind)


def _cpu_amx(seen: _Node, source: Source) -> str | None:
    if seen.labels.get(source.key) != "true" or _has_gpus(seen):
        return None
    return _cpu(seen, "cpu-x86-amx")


def _cpu_arch(seen: _Node, source: Source) -> str | None:
    return _cpu(seen, "cpu-x86") if seen.labels.get(source.key) == "amd64" and not _has_gpus(seen) else None


def _cpu(seen: _Node, id: str) -> str | None:
    return id if seen.lookup.accelerator(id) is not None else None


def _devices(seen: _Node, source: Source) -> int | None:
    resource = seen.lookup.resource(seen.accelerator)
    whole = _whole(seen, source.key)
    if resource is None or resource == "cpu" or not whole:
        return None
    count = sum(number for device, number in whole if not device.tainted)
    return min(count, seen.amounts.get(resource, count))


def _resource(seen: _Node, _: Source) -> int | None:
    resource = seen.lookup.resource(seen.accelerator)
    return None if resource is None else seen.amounts.get(resource)


def _class(seen: _Node, source: Source) -> str | None:
    value = seen.labels.get(source.key)
    return None if value is None else seen.lookup.nic_class(value)


def _pci(seen: _Node, source: Source) -> str | None:
    found = set()
    for device, _ in _rdma(seen, source.key):
        vendor, model = device.attribute("pciVendor"), device.attribute("pciDevice")
        link = device.attribute("encapsulation")
        infiniband = None if link is None else link.lower() == "infiniband"
        found.add(None if vendor is None or model is None else seen.lookup.nic_of_pci(vendor, model, infiniband))
    return found.pop() if len(found) == 1 else None


def _rdma_devices(seen: _Node, source: Source) -> int | None:
    return sum(number for _, number in _rdma(seen, source.key)) or None


def _resource_class(seen: _Node, source: Source) -> str | None:
    return seen.lookup.nic_of_resource(source.key) if seen.amounts.get(source.key) else None


def _amount(seen: _Node, source: Source) -> int | None:
    amounts = [amount for name, amount in seen.amounts.items() if fnmatchcase(name, source.key)]
    return sum(amounts) or None


def _small_amount(seen: _Node, source: Source) -> int | None:
    amount = _amount(seen, source)
    return amount if amount is not None and amount <= RDMA_AMOUNT_MAX else None


def _domain(seen: _Node, source: Source) -> str | None:
    key: str | None = source.key
    if source.kind == "spec":
        key = next((label for level, label in seen.spec.topology_keys.items() if level == source.fact), None)
    value = seen.labels.get(key) if key is not None else None
    return value[:_VALUE_MAX] if value else None


_READINGS: dict[str, Callable[[_Node, Source], str | int | None]] = {
    "stated": _stated,
    "product": _product,
    "instance-type": _instance_type,
    "cpu-amx": _cpu_amx,
    "cpu-arch": _cpu_arch,
    "devices": _devices,
    "resource": _resource,
    "class": _class,
    "pci": _pci,
    "rdma-devices": _rdma_devices,
    "resource-class": _resource_class,
    "amount": _amount,
    "small-amount": _small_amount,
    "domain": _domain,
}


# ---- what readings share


def _newest(slices: Iterable[SliceView]) -> dict[str, list[tuple[Device, int]]]:
    """Devices by driver, of the newest generation of each driver's pool: older slices are being replaced."""
    generation: dict[tuple[str, str], int] = {}
    held = list(slices)
    for item in held:
        key = (item.driver, item.pool)
        generation[key] = max(generation.get(key, 0), item.generation)
    devices: dict[str, list[tuple[Device, int]]] = {}
    for item in held:
        if item.generation == generation[item.driver, item.pool]:
            devices.setdefault(item.driver, []).extend(item.devices)
    return devices


def _whole(seen: _Node, driver: str) -> list[tuple[Device, int]]:
    types = WHOLE_DEVICE_TYPES[driver]
    return [pair for pair in seen.devices.get(driver, ()) if pair[0].attribute("type") in types]


def _rdma(seen: _Node, driver: str) -> list[tuple[Device, int]]:
    return [
        pair
        for pair in seen.devices.get(driver, ())
        if pair[0].attribute("rdma") == "true"
        and pair[0].attribute("isSriovVf") != "true"
        and pair[0].attribute("virtual") != "true"
        and not pair[0].tainted
    ]


def _has_gpus(seen: _Node) -> bool:
    if any(seen.labels.get(key) not in (None, "false", "0") for key in GPU_SIGNS):
        return True
    return any(driver in seen.devices for driver in WHOLE_DEVICE_TYPES)


def _name(source: Source, seen: _Node) -> str:
    if source.kind == "spec":
        return f"spec.{source.key}"
    if source.kind == "slice":
        return f"ResourceSlice {source.key}"
    if source.kind == "allocatable":
        resource = seen.lookup.resource(seen.accelerator) if source.key == "*" else source.key
        return f"allocatable {resource}"
    return f"label {source.key}"


def _text(value: str | int | None) -> str | None:
    return value if isinstance(value, str) else None


def _share(sources: dict[str, str]) -> dict[str, str]:
    """Nodes of a kind have the same sources: keep one mapping for all of them."""
    key = tuple(sources.items())
    if len(_shared_sources) >= _SHARED_MAX:
        _shared_sources.clear()
    return _shared_sources.setdefault(key, sources)
