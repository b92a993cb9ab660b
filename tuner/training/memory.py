"""Memory of every pipeline stage as a waterfall, in bytes, for columns of configurations: shape (cases, stages).

Per parameter with 16-bit weights and Adam: weights 2, gradients 2 or 4, master weight and two moments 12; ZeRO-1
shards the last, ZeRO-2 the gradients too, ZeRO-3 all. Experts shard over their own data-parallel group.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from tuner.training.activations import held
from tuner.training.columns import FOLDED_CODE, Array, Columns
from tuner.training.constants import Constants
from tuner.training.offload import waiting_layers
from tuner.training.parameters import layer_parameters
from tuner.training.schedules import in_flight
from tuner.training.sharding import Shards, shards

_GATHERED_LAYERS = 2.0  # ZeRO-3: the layer that runs and the one fetched ahead
_WORKSPACE_BYTES = 64.0 * 2**20  # matrix-product scratch of PyTorch and of the kernels' library, 32 MiB each
_LOGIT_BYTES = 4.0  # single precision, kept for the backward pass
_WAITING = (0.0, 1.0, 2.0, 0.0)  # more micro-batches in flight: none, vocab-2, vocab-1, interlaced
_INTERLACED = 1.5  # times as many in flight


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Bytes per stage and what they are for. `gathered`: parameters fetched from other shards. `ends`: embedding
    masks and logits. `overhead`: driver context, communication buffers, flat copies
    of the weights' size that the framework keeps, and what the allocator cannot reuse."""

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


def state_bytes(
    c: Columns, dense: Array, experts: Array, cut: Shards | None = None
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Weights (and their second copy), gradients and optimizer state of a number of parameters on one rank."""
    cut = cut or shards(c)
    replicas = np.maximum(cut.ranks * c.tp / (c.ep * c.etp), 1.0)
    wide = c.element_bytes

    def part(over: Array, each: Array) -> Array:
        return np.asarray(each * (dense / over + experts / np.minimum(over, replicas)))

    weights = part(cut.weights, wide)
    if np.any(c.secondary_group > 0):
        second = np.minimum(np.maximum(c.secondary_group, 1.0), cut.weights)
        weights = weights + np.where(
            (c.zero > 2) & (second < cut.weights) & (c.secondary_group > 0), part(second, wide), 0.0
        )
    optimizer = np.where(c.optimizer_offload > 0, 0.0, part(cut.optimizer, c.state_bytes))
    return weights, part(cut.gradients, np.maximum(c.gradient_bytes, wide)), optimizer


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What stages are put together from, one number per configuration (`flight`: per stage)."""

    layer: tuple[Array, Array, Array]
    matrix: tuple[Array, Array, Array]
    first_matrices: Array
    inner_matrices: Array
    last_matrices: Array
    fetched: Array
    flight: Array
    held: Array
    plain: Array
    working: Array
    mask: Array
    first_ends: Array
    inner_ends: Array
    last_ends: Array


def _pieces(c: Columns, stages: int) -> _Pieces:
    dense, experts = layer_parameters(c)
    layer, cut = held(c), shards(c)
    shared = (c.vocab_parallel > 0) & (c.pp > 1)
    matrix = c.vocab * c.hidden / c.tp
    spread = np.where(c.tied > 0, 1.0, 2.0) * matrix / c.pp
    single = np.where(c.tied > 0, 1.0, 2.0) * matrix
    folded = (c.schedule >= FOLDED_CODE) & (c.pp > 1) & ~shared
    end = np.where(shared, spread, np.where((c.pp > 1) & ~folded, matrix, single))
    waiting = np.array(_WAITING)[c.vocab_parallel.astype(np.intp)] * (c.pp > 1)
    flight = in_flight(c.schedule, c.pp, c.micro_batches, c.vpp, np.arange(stages, dtype=np.float64))
    if np.any(shared):
        more = np.where(c.vocab_parallel > 2, _INTERLACED, 1.0)
        flight = np.minimum(flight * more[:, None] + waiting[:, None], c.micro_batches[:, None])
    tokens = c.micro_batch * c.seq / c.cp
    logits = tokens * c.vocab / c.tp * (_LOGIT_BYTES + c.element_bytes) + 2.0 * c.element_bytes * tokens * c.hidden
    inner = np.where(shared, logits / c.pp, 0.0)
    return _Pieces(
        layer=state_bytes(c, dense, experts, cut),
        matrix=state_bytes(c, np.ones_like(dense), np.zeros_like(dense), cut),
        first_matrices=end,
        inner_matrices=np.where(shared, spread, 0.0),
        last_matrices=np.where(folded, 0.0, end),
        fetched=np.where(c.zero > 2, _GATHERED_LAYERS * c.element_bytes * (dense + experts), 0.0),
        flight=flight,
        held=layer.kept,
        plain=layer.plain,
        working=layer.working + _WORKSPACE_BYTES,
        mask=tokens * c.hidden / np.where(c.sp > 0, c.tp, 1.0),
        first_ends=np.where(folded, logits, inner),
        inner_ends=inner,
        last_ends=np.where(shared, inner, np.where(folded, 0.0, logits)),
    )


def _kept(c: Columns, has: _Pieces, layers: Array) -> tuple[Array, Array]:
    """Activations of a stage with so many layers: per micro-batch in flight, and once (buffers of what is offloaded)."""
    again = np.where(c.recompute > 0, np.minimum(c.recomputed, layers), 0.0)
    away, buffered = waiting_layers(c, layers - again)
    return again * has.held + (layers - again - away) * has.plain, buffered * has.plain


def memory(c: Columns, constants: Constants, stages: int) -> Waterfall:
    """The waterfall of configurations that all have `stages` pipeline stages."""
    has = _pieces(c, stages)
    layers = _per_stage(c.first, c.most, c.last, stages)
    ends = _per_stage(has.first_matrices, has.inner_matrices, has.last_matrices, stages)
    weights, gradients, optimizer = (
        layers * layer[:, None] + ends * end[:, None] for layer, end in zip(has.layer, has.matrix, strict=True)
    )
    kept = [_kept(c, has, each) for each in (c.first, c.most, c.last)]
    each, once = (_per_stage(first, inner, last, stages) for first, inner, last in zip(*kept, strict=True))
    activations = has.flight * each + once + has.working[:, None]
    boundary = _per_stage(has.first_ends, has.inner_ends, has.last_ends, stages)
    boundary[:, 0] += has.mask * has.flight[:, 0]
    fetched = np.repeat(has.fetched[:, None], stages, axis=1)
    tensors = weights + gradients + optimizer + fetched + activations + boundary
    extra = constants.shared["reserved_bytes"] + constants.shared["fragmentation"] * tensors
    extra = extra + c.flat_copies[:, None] * weights
    return Waterfall(weights, gradients, optimizer, fetched, activations, boundary, extra)


def stage_totals(c: Columns, constants: Constants, stages: int) -> Array:
    """`memory(...).total` without its parts: what a search needs."""
    has = _pieces(c, stages)
    slack = 1.0 + constants.shared["fragmentation"]
    copies = c.flat_copies / slack
    layer, end = sum(has.layer) + copies * has.layer[0], sum(has.matrix) + copies * has.matrix[0]
    common = slack * (has.fetched + has.working) + constants.shared["reserved_bytes"]
    kept, once = _kept(c, has, c.most)
    inner = slack * (c.most * layer + has.inner_matrices * end + has.inner_ends + once) + common
    total = has.flight * (slack * kept)[:, None]
    total += inner[:, None]
    for stage, layers, matrices, ends in (
        (stages - 1, c.last, has.last_matrices, has.last_ends),
        (0, c.first, has.first_matrices, has.first_ends if stages > 1 else has.last_ends),
    ):
        flight = has.flight[:, stage]
        mask = has.mask * flight if stage == 0 else 0.0
        kept, once = _kept(c, has, layers)
        total[:, stage] = slack * (layers * layer + flight * kept + once + matrices * end + ends + mask) + common
    return total


def _per_stage(first: Array, inner: Array, last: Array, stages: int) -> Array:
    found = np.repeat(inner[:, None], stages, axis=1)
    found[:, 0] = first
    found[:, -1] = last
    return found
