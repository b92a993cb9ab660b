"""Accelerators and network classes: what a vendor's document says about the hardware.

Units are in the names. Peaks are dense (never with structured sparsity) and per accelerator as Kubernetes counts it:
an MI250X is two devices, so its record describes one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from controlplane.catalog.facts import Sourced

Vendor = Literal["nvidia", "amd", "intel", "generic"]

# Transfer rate per lane and encoding efficiency, PCI Express Base Specification (3.0 to 5.0: 128b/130b; 6.0: PAM4
# in 256-byte FLITs, 242 of them payload and headers).
_PCIE_BITS_PER_S_PER_LANE = {
    3: 8e9 * 128 / 130,
    4: 16e9 * 128 / 130,
    5: 32e9 * 128 / 130,
    6: 64e9 * 242 / 256,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator(Sourced):
    """One accelerator model. A number that no public document states is None."""

    name: str
    vendor: Vendor
    kind: Literal["gpu", "cpu"]
    architecture: str
    form_factor: str
    resource_name: str
    release_year: int | None = None
    compute_capability: str | None = None
    instruction_sets: tuple[str, ...] = ()
    memory_type: str | None = None
    memory_bytes: int | None = None  # as sold: the vendor's GB x 1e9, so never more than what is there
    visible_memory_bytes: int | None = None  # total that the driver reports
    memory_bandwidth_bytes_per_s: float | None = None
    fp64_flop_per_s: float | None = None
    fp32_flop_per_s: float | None = None
    tf32_flop_per_s: float | None = None
    fp16_flop_per_s: float | None = None
    bf16_flop_per_s: float | None = None
    fp8_flop_per_s: float | None = None
    fp4_flop_per_s: float | None = None
    int8_op_per_s: float | None = None
    fp32_flop_per_cycle_per_core: int | None = None
    bf16_flop_per_cycle_per_core: int | None = None
    int8_op_per_cycle_per_core: int | None = None
    scale_up_fabric: str | None = None  # a NIC class of kind "scale-up"; None: PCIe only
    scale_up_bandwidth_bytes_per_s_per_direction: float | None = None
    scale_up_domain_accelerators: int | None = None  # most accelerators that reach each other over it
    pcie_generation: int | None = None
    pcie_lanes: int | None = None
    tdp_w: float | None = None
    min_power_limit_w: float | None = None
    accelerators_per_node: int | None = None  # of the usual full node
    products: tuple[str, ...] = ()  # as device plugins, GFD labels and DRA attributes spell it
    instance_types: tuple[str, ...] = ()  # cloud node types with only this accelerator, as shell patterns
    aiconfigurator_system: str | None = None  # name of its measured tables in aiconfigurator-core
    notes: str | None = None

    @property
    def plannable_memory_bytes(self) -> int | None:
        """What plans may count on: the driver's total where known, else the size as sold (never larger)."""
        return self.memory_bytes if self.visible_memory_bytes is None else self.visible_memory_bytes

    @property
    def pcie_bandwidth_bytes_per_s_per_direction(self) -> float | None:
        """Line rate of the host link after encoding, before packet headers."""
        if self.pcie_generation is None or self.pcie_lanes is None:
            return None
        return _PCIE_BITS_PER_S_PER_LANE[self.pcie_generation] * self.pcie_lanes / 8

    def peak_flop_per_s(self, precision: str) -> float | None:
        """Dense peak for `fp64 fp32 tf32 fp16 bf16 fp8 fp4 int8` (operations for int8). None: unknown or not native."""
        peaks = {
            "fp64": self.fp64_flop_per_s,
            "fp32": self.fp32_flop_per_s,
            "tf32": self.tf32_flop_per_s,
            "fp16": self.fp16_flop_per_s,
            "bf16": self.bf16_flop_per_s,
            "fp8": self.fp8_flop_per_s,
            "fp4": self.fp4_flop_per_s,
            "int8": self.int8_op_per_s,
        }
        return peaks[precision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic(Sourced):
    """One class of network: a scale-out NIC, or the scale-up fabric between accelerators."""

    name: str
    kind: Literal["scale-out", "scale-up"]
    protocol: Literal["infiniband", "roce", "efa", "tcp", "slingshot", "nvlink", "xgmi", "unknown"]
    rdma: bool | None
    line_rate_bits_per_s: float | None = None  # one port, one direction
    resource_names: tuple[str, ...] = ()  # extended resources of device plugins, as shell patterns
    pci_ids: tuple[str, ...] = ()  # `vendor:device`, of adapters whose full rate is this class
    instance_types: tuple[str, ...] = ()  # cloud node types that have it, as shell patterns
    notes: str | None = None

    @property
    def line_rate_bytes_per_s(self) -> float | None:
        """Line rate of one port in one direction, bytes."""
        return None if self.line_rate_bits_per_s is None else self.line_rate_bits_per_s / 8
