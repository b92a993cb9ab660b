"""Labels, resources and PCI ids to catalogue entries."""

import pytest

from controlplane.catalog import load
from controlplane.catalog.detect import (
    accelerator_of_instance_type,
    accelerator_of_product,
    is_mig_product,
    nic_of_instance_type,
    nic_of_pci,
    nics_of_resource,
)

CATALOG = load()


@pytest.mark.parametrize(
    ("product", "id"),
    [
        ("NVIDIA-H100-80GB-HBM3", "h100-sxm-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("NVIDIA-H100-80GB-HBM3-SHARED", "h100-sxm-80gb"),
        ("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "a100-sxm-40gb"),
        ("NVIDIA-A100-SXM4-80GB", "a100-sxm-80gb"),
        ("Tesla-T4", "t4"),
        ("Tesla-V100-SXM2-16GB", "v100-sxm2-16gb"),
        ("NVIDIA-B300-SXM6-AC", "b300-sxm-288gb"),
        ("NVIDIA GB200", "gb200-186gb"),
        ("AMD_Instinct_MI300X_OAM", "mi300x-192gb"),
        ("nvidia geforce rtx 4090", "rtx-4090"),
    ],
)
def test_products(product: str, id: str) -> None:
    found = accelerator_of_product(CATALOG, product)
    assert found is not None and found.id == id


@pytest.mark.parametrize("product", ["", "NVIDIA", "NVIDIA-H100", "NVIDIA-A100", "Some-New-GPU-9000"])
def test_a_product_that_is_not_known_is_not_guessed(product: str) -> None:
    assert accelerator_of_product(CATALOG, product) is None


def test_every_product_string_leads_to_its_own_accelerator() -> None:
    for accelerator in CATALOG.accelerators.values():
        for product in accelerator.products:
            found = accelerator_of_product(CATALOG, product)
            assert found is not None and found.id == accelerator.id, product


def test_mig() -> None:
    assert is_mig_product("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb")
    assert not is_mig_product("NVIDIA-A100-SXM4-40GB-SHARED")


@pytest.mark.parametrize(
    ("instance", "accelerator", "nic"),
    [
        ("p5.48xlarge", "h100-sxm-80gb", "efa-v2-100"),
        ("p4d.24xlarge", "a100-sxm-40gb", "efa-v1-100"),
        ("p5en.48xlarge", "h200-sxm-141gb", "efa-v3-200"),
        ("a3-megagpu-8g", "h100-sxm-80gb", "gcp-tcpxo-200"),
        ("Standard_ND96isr_H100_v5", "h100-sxm-80gb", "ib-ndr-400"),
        ("g5.12xlarge", "a10g", None),
        ("g6.xlarge", "l4", None),
        ("g6e.xlarge", "l40s", None),
        ("m5.large", None, None),
    ],
)
def test_instance_types(instance: str, accelerator: str | None, nic: str | None) -> None:
    found = accelerator_of_instance_type(CATALOG, instance)
    assert (found and found.id) == accelerator
    fabric = nic_of_instance_type(CATALOG, instance)
    assert (fabric and fabric.id) == nic


def test_resources_name_candidates() -> None:
    efa = nics_of_resource(CATALOG, "vpc.amazonaws.com/efa")
    assert efa and all(nic.protocol == "efa" for nic in efa)
    rdma = {nic.protocol for nic in nics_of_resource(CATALOG, "rdma/hca_shared_devices_a")}
    assert rdma == {"infiniband", "roce"}
    assert nics_of_resource(CATALOG, "example.com/other") == []


def test_the_link_layer_decides_between_infiniband_and_ethernet() -> None:
    for infiniband, id in ((True, "ib-ndr-400"), (False, "roce-400")):
        found = nic_of_pci(CATALOG, "15b3", "1021", infiniband=infiniband)
        assert found is not None and found.id == id
    assert nic_of_pci(CATALOG, "0x15B3", "0x1021", infiniband=None) is None
    assert nic_of_pci(CATALOG, "8086", "1572", infiniband=False) is None
