"""Which nodes a plain Deployment may use: those whose labels name the accelerator that was planned. Pure.

The labels are the ones that pools read (GPU Feature Discovery, the vendors' labellers, GKE, Node Feature Discovery).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from controlplane.catalog import Accelerator, Catalog
from controlplane.model.plans import PlannedRole

# Extended resource -> labels that hold the product's name.
_PRODUCT_LABELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "nvidia.com/gpu": ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator"),
        "amd.com/gpu": ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name"),
        "gpu.intel.com/xe": ("gpu.intel.com/product",),
        "gpu.intel.com/i915": ("gpu.intel.com/product",),
    }
)
_CPU_LABELS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "cpu-x86": ("kubernetes.io/arch", "amd64"),
        "cpu-x86-amx": ("feature.node.kubernetes.io/cpu-cpuid.AMXBF16", "true"),
    }
)


def placement(accelerator: Accelerator) -> dict[str, Any]:
    """Fields of a pod that keep it on the accelerator's nodes: an affinity (any of the labels will do), and the usual
    taint of nodes with devices tolerated."""
    out: dict[str, Any] = {}
    terms = [
        {"matchExpressions": [{"key": key, "operator": "In", "values": values}]} for key, values in _labels(accelerator)
    ]
    if terms:
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        out["affinity"] = {"nodeAffinity": required}
    if accelerator.kind == "gpu":
        out["tolerations"] = [{"key": accelerator.resource_name, "operator": "Exists", "effect": "NoSchedule"}]
    return out


def unplaced(roles: Iterable[PlannedRole], catalog: Catalog) -> list[str]:
    """What to tell whoever applies Deployments whose accelerator no node label is known for."""
    found = dict.fromkeys(role.choice.accelerator for role in roles)
    return [
        f"no node label is known that tells {name} from others ({resource}): its pods may land on any node that has the "
        "resource; add a nodeSelector to the Deployment before applying it"
        for name in found
        if not _labels(accelerator := catalog.accelerator(name)) and (resource := accelerator.resource_name)
    ]


def _labels(accelerator: Accelerator) -> list[tuple[str, list[str]]]:
    if accelerator.id in _CPU_LABELS:
        key, value = _CPU_LABELS[accelerator.id]
        return [(key, [value])]
    names = list(accelerator.products)
    return [(key, names) for key in _PRODUCT_LABELS.get(accelerator.resource_name, ()) if names]
