"""The accelerator and NIC words people write, to catalogue ids: exact ids first, then these short names."""

from __future__ import annotations

from controlplane.catalog import load

# Short names of papers and tools; where memory sizes exist, the larger one, which is what the papers ran on.
_GPUS = {
    "a100": "a100-sxm-80gb",
    "a100-80": "a100-sxm-80gb",
    "a100-80gb": "a100-sxm-80gb",
    "a100-80g": "a100-sxm-80gb",
    "a100-40": "a100-sxm-40gb",
    "a100-40gb": "a100-sxm-40gb",
    "a100-40g": "a100-sxm-40gb",
    "h100": "h100-sxm-80gb",
    "h100-80": "h100-sxm-80gb",
    "h100-80gb": "h100-sxm-80gb",
    "h200": "h200-sxm-141gb",
    "b200": "b200-sxm-180gb",
    "b300": "b300-sxm-288gb",
    "gb200": "gb200-186gb",
    "gb300": "gb300-278gb",
    "gh200": "gh200-96gb",
    "gh-96": "gh200-96gb",
    "v100": "v100-sxm2-16gb",
    "v100-16": "v100-sxm2-16gb",
    "v100-16gb": "v100-sxm2-16gb",
    "v100-32": "v100-sxm2-32gb",
    "v100-32gb": "v100-sxm2-32gb",
    "mi250x": "mi250x-gcd-64gb",
    "mi300x": "mi300x-192gb",
}
_NICS = {
    "edr": "ib-edr-100",
    "hdr": "ib-hdr-200",
    "hdr-200": "ib-hdr-200",
    "hdr200": "ib-hdr-200",
    "ndr": "ib-ndr-400",
    "ndr-400": "ib-ndr-400",
    "ndr400": "ib-ndr-400",
    "xdr": "ib-xdr-800",
    "ib": "ib-hdr-200",
    "infiniband": "ib-hdr-200",
    "roce": "roce-200",
    "ethernet": "eth-25",
    "tcp": "eth-25",
}


def gpu_id(name: str, *, field: str) -> str:
    """Catalogue id of an accelerator. Raises UnknownName that names the nearest known ones."""
    return load().accelerator(_resolved(name, _GPUS), field=field).id


def nic_id(name: str, *, field: str) -> str:
    """Catalogue id of a NIC class. Raises UnknownName that names the nearest known ones."""
    return load().nic(_resolved(name, _NICS), field=field).id


def _resolved(name: str, short: dict[str, str]) -> str:
    plain = name.strip().lower().replace("_", "-").replace(" ", "-").removeprefix("nvidia-")
    return short.get(plain, plain)
