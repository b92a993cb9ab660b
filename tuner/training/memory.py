"""Memory of every pipeline stage as a waterfall, in bytes, for columns of configurations: shape (cases, stages).

Per parameter with 16-bit weights and Adam: weights 2, gradients 2 or 4, master weight and two moments 12; ZeRO-1
shards the last, ZeRO-2 the gradients too, ZeRO-3 all. Experts shard over their own data-parallel group.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from tuner.training.activations import layer_bytes, working_bytes
from tuner.training.columns import Array, Columns
from tuner.training.constants import Constants
from tuner.training.schedules import in_flight

_GATHERED_LAYERS = 2.0  # ZeRO-3: the layer that runs and the one fetched ahead
_WORKSPACE_BYTES = 64.0 * 2**20  # matrix-product scratch of PyTorch and of the kernels' library, 32 MiB each
_LOGIT_BYTES = 4.0  # single precision, kept for the backward pass
_WAITING = (0.0, 1.0, 2.0, 1.0)  # more micro-batches in flight: none, vocab-2, vocab-1, interlaced (x 1.5 below)


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Bytes per stage and what they are for. `gathered`: parameters fetched from other shards. `ends`: embedding
    masks and logits. `overhead`: driver context, communication buffers, and what the allocator cannot reuse."""

    weights: Array
    gradients: Array
    optimizer: Array
    gathered: Array
    activations: Array
    ends: Array
    overhead: Array

    @property
    def total(self) -> Array:
        """All parts together."""
        return np.asarray(sum(getattr(self, item.name) for item in fields(self)))


def layer_parameters(c: Columns) -> tuple[Array, Array]:
    """Parameters of an average layer on one rank: shared by all data-parallel ranks, and experts."""
    attention = 2.0 * c.hidden * c.head_dim * (c.heads + np.maximum(c.kv_heads, c.tp)) / c.tp
    norms = np.where(c.gated > 0, 2.0, 4.0) * c.hidden
    matrices = np.where(c.gated > 0, 3.0, 2.0)
    share = np.where(c.layers > 0, c.moe_layers / np.maximum(c.layers, 1.0), 0.0)
    mlp = matrices * c.hidden * ((1.0 - share) * c.ffn + share * c.shared_ffn) / c.tp
    router = share * c.hidden * c.experts
    experts = share * matrices * c.hidden * c.expert_ffn * c.experts / (c.ep * c.etp)
    return attention + norms + mlp + router, np.asarray(experts)


def state_bytes(c: Columns, dense: Array, experts: Array) -> tuple[Array, Array, Array]:
    """Weights, gradients and optimizer state of a number of parameters on one rank."""
    ranks = c.dp * c.cp
    replicas = np.maximum(ranks * c.tp / (c.ep * c.etp), 1.0)
    wide = c.element_bytes

    def part(level: float, each: Array) -> Array:
        cut = c.zero >= level
        return np.asarray(each * (dense / np.where(cut, ranks, 1.0) + experts / np.where(cut, replicas, 1.0)))

    return part(3.0, wide), part(2.0, np.maximum(c.gradient_bytes, wide)), part(1.0, c.state_bytes)


def memory(c: Columns, constants: Constants, stages: int) -> Waterfall:
    """The waterfall of configurations that all have `stages` pipeline stages."""
    index = np.arange(stages, dtype=np.float64)
    layers = np.repeat(c.most[:, None], stages, axis=1)
    layers[:, 0] = c.first
    layers[:, -1] = np.where(c.pp > 1, c.last, c.layers)
    dense, experts = layer_parameters(c)
    shared = (c.vocab_parallel > 0) & (c.pp > 1)
    matrix = c.vocab * c.hidden / c.tp
    ends = np.zeros_like(layers)
    ends[:, 0] += matrix
    ends[:, -1] += np.where((c.tied > 0) & (c.pp == 1), 0.0, matrix)
    ends = np.where(shared[:, None], (np.where(c.tied > 0, 1.0, 2.0) * matrix / c.pp)[:, None], ends)
    per_layer = state_bytes(c, dense, experts)
    per_end = state_bytes(c, np.ones_like(dense), np.zeros_like(dense))
    weights, gradients, optimizer = (
        layers * layer[:, None] + ends * end[:, None] for layer, end in zip(per_layer, per_end, strict=True)
    )
    fetched = np.where(c.zero > 2, _GATHERED_LAYERS * c.element_bytes * (dense + experts), 0.0)
    waiting = np.array(_WAITING)[c.vocab_parallel.astype(np.intp)] * (c.pp > 1)
    flight = in_flight(c.schedule, c.pp, c.micro_batches, c.vpp, index)
    flight = np.minimum(flight * np.where(c.vocab_parallel > 2, 1.5, 1.0)[:, None], c.micro_batches[:, None])
    flight = np.minimum(flight + (waiting * (c.vocab_parallel < 3))[:, None], c.micro_batches[:, None])
    activations = flight * layers * layer_bytes(c)[:, None] + working_bytes(c)[:, None] + _WORKSPACE_BYTES
    tokens = c.micro_batch * c.seq / c.cp
    boundary = np.zeros_like(layers)
    boundary[:, 0] += tokens * c.hidden / np.where(c.sp > 0, c.tp, 1.0) * flight[:, 0]
    logits = tokens * c.vocab / c.tp * (_LOGIT_BYTES + c.element_bytes) + 2.0 * c.element_bytes * tokens * c.hidden
    boundary[:, -1] += np.where(shared, 0.0, logits)
    boundary += np.where(shared, logits / c.pp, 0.0)[:, None]
    tensors = weights + gradients + optimizer + fetched[:, None] + activations + boundary
    extra = constants.shared["reserved_bytes"] + constants.shared["fragmentation"] * tensors
    return Waterfall(
        weights, gradients, optimizer, np.repeat(fetched[:, None], stages, axis=1), activations, boundary, extra
    )
