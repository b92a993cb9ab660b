"""Time of collectives between the ranks of one engine: latency plus bytes over the slowest link they cross."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlplane.catalog import Accelerator, Catalog
from controlplane.model.errors import Unsupported
from tuner.serving.case import EngineCase
from tuner.serving.step.roofline_hardware import constants
from tuner.serving.step.table import Floats


@dataclass(frozen=True, slots=True)
class Link:
    """One kind of connection between ranks; bytes per second in one direction per accelerator."""

    bytes_per_s: float
    latency_ms: float
    hop_ms: float


@dataclass(frozen=True, slots=True)
class Links:
    """Connections of one engine's ranks. `near` reaches `per_domain` accelerators, `far` the rest."""

    near: Link
    per_domain: int
    far: Link
    notes: tuple[str, ...] = ()

    def all_reduce_ms(self, moved_bytes: Floats, ranks: int) -> Floats:
        """Sum of one vector over all ranks: a ring within the domain, then one between domains on each rank's share."""
        return 2.0 * self._gather_ms(moved_bytes, ranks, 0.5)

    def all_gather_ms(self, moved_bytes: Floats, ranks: int) -> Floats:
        """Every rank ends with all `moved_bytes`. A reduce-scatter costs the same."""
        return self._gather_ms(moved_bytes, ranks, 1.0)

    def all_to_all_ms(self, moved_bytes: Floats, ranks: int) -> Floats:
        """Each rank sends `moved_bytes`, spread evenly over the ranks, and receives as much."""
        if ranks <= 1:
            return np.zeros_like(moved_bytes)
        inside = min(ranks, self.per_domain)
        near = moved_bytes * (inside - 1) / ranks / self.near.bytes_per_s
        far = moved_bytes * (ranks - inside) / ranks / self.far.bytes_per_s
        latency = self.near.latency_ms + self.near.hop_ms * np.log2(inside) if inside > 1 else 0.0
        if ranks > inside:
            latency = max(latency, self.far.latency_ms + self.far.hop_ms * np.log2(ranks / inside))
        return 1e3 * np.maximum(near, far) + latency

    def send_ms(self, moved_bytes: Floats, *, near: bool) -> Floats:
        """From one rank to another."""
        link = self.near if near else self.far
        return 1e3 * moved_bytes / link.bytes_per_s + link.latency_ms

    def _gather_ms(self, moved_bytes: Floats, ranks: int, latency_share: float) -> Floats:
        if ranks <= 1:
            return np.zeros_like(moved_bytes)
        inside = min(ranks, self.per_domain)
        domains = -(-ranks // inside)
        total = np.zeros_like(moved_bytes)
        if inside > 1:
            total = total + 1e3 * moved_bytes * (inside - 1) / inside / self.near.bytes_per_s
            total = total + latency_share * (self.near.latency_ms + self.near.hop_ms * (inside - 1))
        if domains > 1:
            total = total + 1e3 * moved_bytes / inside * (domains - 1) / domains / self.far.bytes_per_s
            total = total + latency_share * (self.far.latency_ms + self.far.hop_ms * (domains - 1))
        return total


def links_of(case: EngineCase, accelerator: Accelerator, catalog: Catalog) -> Links:
    """Connections between this engine's ranks. Raises Unsupported where no number is public and none is given."""
    per_node = case.accelerators_per_node or accelerator.accelerators_per_node or 8
    notes: list[str] = []
    ranks = case.tensor_parallel * case.attention_data_parallel
    fabric = accelerator.scale_up_bandwidth_bytes_per_s_per_direction
    domain = accelerator.scale_up_domain_accelerators or per_node
    if domain <= (accelerator.accelerators_per_node or 0):  # the fabric ends at the node, however large this one is
        domain = min(domain, per_node)
    if accelerator.kind == "cpu":
        # cores share memory: the ranks of a CPU engine are processes of one machine
        core = constants()["cpu_core"]
        near, reach = _link("pcie", float(core["bandwidth_bytes_per_s"])), max(per_node, ranks)
    elif fabric is not None and (domain >= per_node or ranks <= domain):
        near, reach = _link("fabric", fabric), domain
    else:  # a bridge between two boards is left as soon as a group is larger
        near, reach = _pcie(accelerator, ranks, notes), per_node
    stages = ranks * case.pipeline_parallel
    far = _network(case, accelerator, per_node, catalog, notes if stages > reach else [])
    return Links(near=near, per_domain=reach, far=far, notes=tuple(notes))


def _link(kind: str, bytes_per_s: float) -> Link:
    found = constants()["links"][kind]
    return Link(bytes_per_s * found["share"], found["latency_us"] / 1e3, found["hop_us"] / 1e3)


def _pcie(accelerator: Accelerator, ranks: int, notes: list[str]) -> Link:
    rate = accelerator.pcie_bandwidth_bytes_per_s_per_direction
    if rate is None:
        raise Unsupported(
            f"no public document states the links of {accelerator.name}", field="system", value=accelerator.id
        )
    if ranks > 1:
        notes.append(f"{ranks} ranks of {accelerator.id} talk over PCI Express")
    return _link("pcie", rate)


def _network(case: EngineCase, accelerator: Accelerator, per_node: int, catalog: Catalog, notes: list[str]) -> Link:
    """The link between nodes, one accelerator's share of it."""
    if case.nic is not None:
        nic = catalog.nic(case.nic, field="nic")
        if nic.line_rate_bytes_per_s is not None:
            count = case.nics_per_node
            if count is None:  # boards with a fabric of their own come with a NIC each, others share one
                count = per_node if accelerator.scale_up_fabric is not None else 1
                notes.append(f"{count} {nic.id} per node assumed")
            return _link("rdma" if nic.rdma else "tcp", nic.line_rate_bytes_per_s * max(count, 1) / per_node)
    rate = float(constants()["assumed_nic_bytes_per_s_per_accelerator"]["value"])
    notes.append(f"network between nodes unknown: {rate * 8 / 1e9:g} Gb/s RDMA per accelerator assumed")
    return _link("rdma", rate)
