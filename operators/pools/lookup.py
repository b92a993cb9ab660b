"""Catalogue look-ups by what nodes say, remembered: a thousand nodes carry a handful of distinct labels."""

from __future__ import annotations

from functools import lru_cache

from controlplane.catalog import Catalog
from controlplane.catalog.detect import (
    accelerator_of_instance_type,
    accelerator_of_product,
    is_mig_product,
    nic_of_instance_type,
    nic_of_pci,
    nics_of_resource,
)
from controlplane.catalog.hardware import Accelerator

_REMEMBERED = 4096


class Lookup:
    """Names on nodes to catalogue ids. Every answer is None when the catalogue cannot tell."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        remember = lru_cache(maxsize=_REMEMBERED)
        self.product = remember(self._product)
        self.instance_type = remember(self._instance_type)
        self.nic_of_instance_type = remember(self._nic_of_instance_type)
        self.nic_of_resource = remember(self._nic_of_resource)
        self.nic_of_pci = remember(self._nic_of_pci)

    def accelerator(self, id: str) -> Accelerator | None:
        """The record of an id."""
        return self._catalog.accelerators.get(id)

    def nic_class(self, id: str) -> str | None:
        """The id itself when the catalogue has it."""
        return id if id in self._catalog.nics else None

    def resource(self, accelerator: str | None) -> str | None:
        """The resource that counts an accelerator."""
        found = self._catalog.accelerators.get(accelerator) if accelerator is not None else None
        return None if found is None else found.resource_name

    def _product(self, product: str, memory_bytes: int | None) -> str | None:
        # Slices and shares of a GPU are counted as devices too; planned as whole GPUs they would lie.
        if is_mig_product(product) or product.lower().endswith("-shared"):
            return None
        found = accelerator_of_product(self._catalog, product, memory_bytes=memory_bytes)
        return None if found is None else found.id

    def _instance_type(self, instance_type: str) -> str | None:
        found = accelerator_of_instance_type(self._catalog, instance_type)
        return None if found is None else found.id

    def _nic_of_instance_type(self, instance_type: str) -> str | None:
        found = nic_of_instance_type(self._catalog, instance_type)
        return None if found is None else found.id

    def _nic_of_resource(self, resource: str) -> str | None:
        found = nics_of_resource(self._catalog, resource)
        return found[0].id if len(found) == 1 else None

    def _nic_of_pci(self, vendor: str, device: str, infiniband: bool | None) -> str | None:
        found = nic_of_pci(self._catalog, vendor, device, infiniband=infiniband)
        return None if found is None else found.id
