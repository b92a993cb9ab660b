"""Accelerators and networks: ranges, bands and relations that real hardware obeys."""

import pytest

from controlplane.catalog import Accelerator, Nic, load

GPUS = [item for item in load().accelerators.values() if item.kind == "gpu"]
CPUS = [item for item in load().accelerators.values() if item.kind == "cpu"]
NICS = list(load().nics.values())


def by_id(item: Accelerator | Nic) -> str:
    return item.id


@pytest.mark.parametrize("gpu", GPUS, ids=by_id)
def test_memory_and_power_are_in_range(gpu: Accelerator) -> None:
    assert gpu.memory_bytes is not None and 8e9 <= gpu.memory_bytes <= 300e9
    assert gpu.memory_bandwidth_bytes_per_s is not None
    assert 200e9 <= gpu.memory_bandwidth_bytes_per_s <= 10e12
    # Reading all memory once takes 10 ms (HBM, small) to 130 ms (GDDR, large): a unit slip leaves this band.
    sweep_s = gpu.memory_bytes / gpu.memory_bandwidth_bytes_per_s
    assert 0.010 <= sweep_s <= 0.130, sweep_s
    if gpu.tdp_w is not None:
        assert 50 <= gpu.tdp_w <= 1500
        assert gpu.min_power_limit_w is None or gpu.min_power_limit_w < gpu.tdp_w
    assert gpu.release_year is not None and 2016 <= gpu.release_year <= 2026


@pytest.mark.parametrize("gpu", GPUS, ids=by_id)
def test_driver_total_is_close_to_the_size_as_sold(gpu: Accelerator) -> None:
    """Vendors' GB are binary for HBM and less is visible where ECC or firmware takes a share: -5 % to +8 %."""
    if gpu.visible_memory_bytes is not None:
        assert gpu.memory_bytes is not None
        assert 0.95 <= gpu.visible_memory_bytes / gpu.memory_bytes <= 1.08
    assert gpu.plannable_memory_bytes == (gpu.visible_memory_bytes or gpu.memory_bytes)


@pytest.mark.parametrize("gpu", GPUS, ids=by_id)
def test_peaks_are_dense_and_ordered(gpu: Accelerator) -> None:
    tf32, fp16, bf16 = (gpu.peak_flop_per_s(name) for name in ("tf32", "fp16", "bf16"))
    if fp16 is not None and bf16 is not None:
        assert fp16 == bf16
    half = fp16 or bf16
    if tf32 is not None:
        assert half is not None and half >= tf32
    if gpu.fp8_flop_per_s is not None and half is not None:
        # Intel states one rate for both on Gaudi 3; all others double.
        assert gpu.fp8_flop_per_s / half == pytest.approx(1.0 if gpu.id == "gaudi-3" else 2.0, rel=0.03)
    if gpu.fp4_flop_per_s is not None and gpu.fp8_flop_per_s is not None:
        assert 1.9 <= gpu.fp4_flop_per_s / gpu.fp8_flop_per_s <= 4.1
    if gpu.fp32_flop_per_s is not None and half is not None:
        assert half > gpu.fp32_flop_per_s
    for name in ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp4", "int8"):
        value = gpu.peak_flop_per_s(name)
        assert value is None or 0.2e12 <= value <= 20e15


@pytest.mark.parametrize("gpu", GPUS, ids=by_id)
def test_operational_intensity_is_plausible(gpu: Accelerator) -> None:
    """Half-precision operations per byte of memory bandwidth: 30 (H20) to 520 (Gaudi 3, L4)."""
    half = gpu.fp16_flop_per_s or gpu.bf16_flop_per_s
    if half is not None and gpu.memory_bandwidth_bytes_per_s is not None:
        assert 30 <= half / gpu.memory_bandwidth_bytes_per_s <= 520


@pytest.mark.parametrize("gpu", GPUS, ids=by_id)
def test_links(gpu: Accelerator) -> None:
    if gpu.scale_up_fabric is not None:
        assert load().nic(gpu.scale_up_fabric).kind == "scale-up"
    if gpu.scale_up_bandwidth_bytes_per_s_per_direction is not None:
        assert gpu.scale_up_fabric is not None
        assert 50e9 <= gpu.scale_up_bandwidth_bytes_per_s_per_direction <= 1e12
    if gpu.pcie_generation is not None:
        assert gpu.pcie_generation in (3, 4, 5, 6) and gpu.pcie_lanes in (8, 16)
        assert gpu.pcie_bandwidth_bytes_per_s_per_direction is not None
    if gpu.scale_up_domain_accelerators is not None and gpu.accelerators_per_node is not None:
        assert gpu.scale_up_domain_accelerators >= min(gpu.accelerators_per_node, 2)


def test_nvlink_is_a_whole_number_of_links() -> None:
    links = {"v100-sxm2-16gb": 6, "a100-sxm-80gb": 12, "h100-sxm-80gb": 18, "h200-sxm-141gb": 18, "b200-sxm-180gb": 18}
    for id, count in links.items():
        gpu = load().accelerator(id)
        assert gpu.scale_up_fabric is not None
        per_link = load().nic(gpu.scale_up_fabric).line_rate_bytes_per_s
        assert gpu.scale_up_bandwidth_bytes_per_s_per_direction == count * (per_link or 0)


def test_pcie_rates() -> None:
    rates = {"t4": 15.75e9, "a100-sxm-80gb": 31.5e9, "h100-sxm-80gb": 63.0e9, "arc-pro-b60-24gb": 31.5e9}
    for id, rate in rates.items():
        assert load().accelerator(id).pcie_bandwidth_bytes_per_s_per_direction == pytest.approx(rate, rel=0.01)


def test_resource_names_follow_the_vendor() -> None:
    names = {"nvidia": {"nvidia.com/gpu"}, "amd": {"amd.com/gpu"}, "generic": {"cpu"}}
    names["intel"] = {"habana.ai/gaudi", "gpu.intel.com/xe", "gpu.intel.com/i915"}
    for item in load().accelerators.values():
        assert item.resource_name in names[item.vendor]
        assert (item.compute_capability is not None) == (item.vendor == "nvidia")


def test_undisputed_figures() -> None:
    h100, a100, mi300x = (load().accelerator(id) for id in ("h100-sxm-80gb", "a100-sxm-80gb", "mi300x-192gb"))
    assert (h100.bf16_flop_per_s, h100.memory_bandwidth_bytes_per_s, h100.tdp_w) == (989.4e12, 3.35e12, 700)
    assert (a100.bf16_flop_per_s, a100.memory_bandwidth_bytes_per_s, a100.tdp_w) == (312e12, 2.039e12, 400)
    assert (mi300x.bf16_flop_per_s, mi300x.memory_bandwidth_bytes_per_s, mi300x.tdp_w) == (1307.4e12, 5.3e12, 750)


def test_a_cpu_is_an_accelerator_counted_in_cores() -> None:
    assert {cpu.id for cpu in CPUS} == {"cpu-x86", "cpu-x86-amx"}
    for cpu in CPUS:
        assert cpu.resource_name == "cpu" and cpu.memory_bytes is None and cpu.bf16_flop_per_s is None
    assert load().accelerator("cpu-x86-amx").bf16_flop_per_cycle_per_core == 1024
    assert "amx_bf16" in load().accelerator("cpu-x86-amx").instruction_sets


@pytest.mark.parametrize("nic", NICS, ids=by_id)
def test_networks(nic: Nic) -> None:
    if nic.id == "unknown":
        assert nic.line_rate_bits_per_s is None and nic.rdma is None
        return
    assert nic.line_rate_bits_per_s is not None and 10e9 <= nic.line_rate_bits_per_s <= 800e9
    assert nic.line_rate_bytes_per_s == nic.line_rate_bits_per_s / 8
    if nic.kind == "scale-out":
        assert nic.rdma is (nic.protocol in {"infiniband", "roce", "efa", "slingshot"})
        number = nic.id.rpartition("-")[2]
        assert nic.line_rate_bits_per_s == int(number) * 1e9, "the id ends with the rate in Gb/s"
    for pci in nic.pci_ids:
        assert len(pci) == 9 and pci[4] == ":"
