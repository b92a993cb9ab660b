"""Catalogue: facts about accelerators, networks, models and engines.

Here belong: data files (`data/*.json`) with a unit in each name and a source beside each number, their typed loader,
and pure functions that follow from the facts alone (parameter counts, flag rendering, product label to accelerator).

Here does not belong: anything measured on this cluster, any prediction, any Kubernetes access. Imports: standard
library, numpy, pydantic and `controlplane.model`.
"""

from controlplane.catalog.engines import Engine, Knob
from controlplane.catalog.facts import Source
from controlplane.catalog.hardware import Accelerator, Nic
from controlplane.catalog.loader import Catalog, load, nearest, unknown
from controlplane.catalog.models import ModelShape

__all__ = [
    "Accelerator",
    "Catalog",
    "Engine",
    "Knob",
    "ModelShape",
    "Nic",
    "Source",
    "load",
    "nearest",
    "unknown",
]
