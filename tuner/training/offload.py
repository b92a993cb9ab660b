"""Optimizer state in host memory or on NVMe, activations in host memory: time they cost and bytes the host needs.

ZeRO-Infinity (arXiv 2104.07857): gradients go down, updated weights come up, the processor updates the state where it
lies. Nobody published times of whole steps to check this on; the rates are priors (`data/offload.json`).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from tuner.training.activations import plain_bytes
from tuner.training.columns import Array, Columns
from tuner.training.compute import LayerTime
from tuner.training.hardware import Hardware
from tuner.training.parameters import layer_parameters
from tuner.training.sharding import Parts, updated_parameters

OPTIMIZER_BYTES = 28.0  # per parameter and step: gradient, master weight and two moments read, three of them written
_STATE_MOVED = 24.0  # of them state that lies on NVMe: master weight and two moments, read and written
_BUFFERS = 2.0  # layers whose activations are on their way down or up


def optimizer_time(c: Columns, h: Hardware, parts: Parts | None = None) -> Array:
    """The update of a rank's share of the parameters, wherever it happens."""
    updated = updated_parameters(c, parts)
    plain = c.optimizer_bytes * updated / h.memory
    if not np.any(c.optimizer_offload > 0):
        return np.asarray(plain)
    rates = _rates()
    link = rates["host_link_share"] * c.host
    moved = (c.gradient_bytes + c.element_bytes) * updated / link
    host = OPTIMIZER_BYTES * updated / (rates["host_memory_bytes_per_s_per_node"] / c.per_node)
    disk = _STATE_MOVED * updated / (rates["nvme_bytes_per_s_per_node"] / c.per_node)
    away = moved + np.where(c.optimizer_offload > 1, np.maximum(host, disk), host)
    return np.asarray(np.where(c.optimizer_offload > 0, away, plain))


def with_activations(c: Columns, layer: LayerTime) -> LayerTime:
    """Layers whose activations go to host memory behind their own forward and come back behind their backward."""
    if not np.any(c.offload_layers > 0):
        return layer
    share = np.minimum(c.offload_layers / np.maximum(c.most, 1.0), 1.0)
    carry = np.where(c.offload_layers > 0, plain_bytes(c) / (_rates()["host_link_share"] * c.host), 0.0)
    forward = share * np.maximum(carry - layer.forward, 0.0)
    backward = share * np.maximum(carry - layer.backward, 0.0)
    return LayerTime(
        layer.forward + forward, layer.backward + backward, layer.weight, layer.exposed + forward + backward
    )


def waiting_layers(c: Columns, layers: Array) -> tuple[Array, Array]:
    """Of a stage's layers: those whose activations lie in host memory, and how many of them the device buffers."""
    away = np.minimum(c.offload_layers, layers)
    return away, np.minimum(away, _BUFFERS)


def host_bytes(c: Columns) -> Array:
    """Host memory that one rank of the fullest stage needs: optimizer state kept there, and activations."""
    dense, experts = layer_parameters(c)
    ranks = c.dp * c.cp
    replicas = np.maximum(ranks * c.tp / (c.ep * c.etp), 1.0)
    cut = c.zero > 0
    shared = c.most * dense + c.vocab * c.hidden / c.tp
    updated = shared / np.where(cut, ranks, 1.0) + c.most * experts / np.where(cut, replicas, 1.0)
    state = updated * (c.state_bytes + c.gradient_bytes)
    away, _ = waiting_layers(c, c.most)
    return np.asarray(np.where(c.optimizer_offload == 1, state, 0.0) + away * plain_bytes(c))


@cache
def _rates() -> dict[str, float]:
    path = Path(__file__).parent / "data" / "offload.json"
    return {name: float(row["value"]) for name, row in json.loads(path.read_bytes())["rates"].items()}
