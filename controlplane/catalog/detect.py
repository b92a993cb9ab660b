"""From what a node says about itself to catalogue entries. Pure; which label was read is the caller's business.

Product names are compared without case and with every run of other characters as one dash, because GFD writes
`NVIDIA-H100-80GB-HBM3`, DRA `NVIDIA H100 80GB HBM3` and AMD's labeller `AMD_Instinct_MI300X_OAM`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TypeVar

from controlplane.catalog.hardware import Accelerator, Nic
from controlplane.catalog.loader import Catalog

_SUFFIX = re.compile(r"-(shared|mig-[0-9a-z.+-]+)$")
T = TypeVar("T", Accelerator, Nic)


def accelerator_of_product(catalog: Catalog, product: str, *, memory_bytes: int | None = None) -> Accelerator | None:
    """Accelerator whose product names contain this one, time-sliced (`-SHARED`) and MIG suffixes aside.

    `memory_bytes` as the node states it decides between sizes that share a name, and otherwise is not looked at.
    None when no product name matches: a guess would be worse than a fact that is reported missing.
    """
    wanted = _SUFFIX.sub("", _plain(product))
    found = [
        accelerator
        for accelerator in catalog.accelerators.values()
        if any(_plain(name) == wanted for name in accelerator.products)
    ]
    if len(found) > 1 and memory_bytes is not None:
        found.sort(key=lambda item: abs((item.plannable_memory_bytes or 0) - memory_bytes))
        return found[0]
    return found[0] if len(found) == 1 else None


def is_mig_product(product: str) -> bool:
    """Whether a product label names a MIG slice rather than a whole GPU."""
    return "-mig-" in _plain(product)


def accelerator_of_instance_type(catalog: Catalog, instance_type: str) -> Accelerator | None:
    """Accelerator of a cloud node type (label node.kubernetes.io/instance-type). None when unknown or ambiguous."""
    found = _of_instance_type(catalog.accelerators.values(), instance_type)
    return found[0] if len(found) == 1 else None


def nic_of_instance_type(catalog: Catalog, instance_type: str) -> Nic | None:
    """Network class between nodes of a cloud node type. None when unknown or ambiguous."""
    found = [nic for nic in _of_instance_type(catalog.nics.values(), instance_type) if nic.kind == "scale-out"]
    return found[0] if len(found) == 1 else None


def nics_of_resource(catalog: Catalog, resource_name: str) -> list[Nic]:
    """Network classes an extended resource may stand for: `vpc.amazonaws.com/efa` is EFA of some generation, `rdma/...`
    is InfiniBand or RoCE of some rate. The node's type or the adapter's PCI id decides between them."""
    return [
        nic
        for nic in catalog.nics.values()
        if any(fnmatchcase(resource_name, pattern) for pattern in nic.resource_names)
    ]


def nic_of_pci(catalog: Catalog, vendor_id: str, device_id: str, *, infiniband: bool | None) -> Nic | None:
    """Network class of an adapter at its full rate. `infiniband` is the link layer as the node reports it (device
    attribute `encapsulation`, or the link layer in sysfs); None leaves adapters that can do both undecided."""
    wanted = f"{vendor_id.lower().removeprefix('0x')}:{device_id.lower().removeprefix('0x')}"
    found = [nic for nic in catalog.nics.values() if wanted in nic.pci_ids]
    if infiniband is not None:
        found = [nic for nic in found if (nic.protocol == "infiniband") == infiniband]
    return found[0] if len(found) == 1 else None


def _of_instance_type(entries: Iterable[T], instance_type: str) -> list[T]:
    return [entry for entry in entries if any(fnmatchcase(instance_type, name) for name in entry.instance_types)]


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z.+]+", "-", name.lower()).strip("-")
