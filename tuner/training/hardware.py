"""Rates that work really gets: peaks of the catalogue times the constants of the accelerator and link class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.training.columns import Array, Columns
from tuner.training.constants import Constants
from tuner.training.transport import BY_HOST, achieved_bytes_per_s


@dataclass(frozen=True, slots=True)
class Hardware:
    """Per configuration: operations per second in the layers' GEMMs, in the output's (16 bits where layers are
    narrower) and in flash kernels, bytes per second of memory, of one accelerator's link inside the node, and of all
    NICs of a node together."""

    gemm: Array
    wide_gemm: Array
    attention: Array
    memory: Array
    intra: Array
    node: Array


def hardware(columns: Columns, constants: Constants) -> Hardware:
    """The achieved rates of every configuration."""

    def share(part: str) -> Array:
        return np.array([constants.accelerators[name][part] for name in columns.gpu_classes])[columns.gpu_class]

    links = np.array([constants.links[name] for name in columns.link_classes])
    by_host = np.array([name in BY_HOST for name in columns.link_classes])
    return Hardware(
        gemm=columns.peak * share("gemm"),
        wide_gemm=columns.wide_peak * share("gemm"),
        attention=columns.wide_peak * share("attention"),
        memory=columns.bandwidth * share("memory"),
        intra=columns.intra * links[columns.intra_class],
        node=achieved_bytes_per_s(columns.node, links[columns.inter_class], by_host[columns.inter_class]),
    )
