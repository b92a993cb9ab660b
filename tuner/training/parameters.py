"""Parameters on one rank: of a layer, split by who shares them, and of the stage that holds most."""

from __future__ import annotations

import numpy as np

from tuner.training import attention
from tuner.training.columns import FOLDED_CODE, Array, Columns


def layer_parameters(c: Columns) -> tuple[Array, Array]:
    """Parameters of an average layer on one rank: shared by all data-parallel ranks, and experts."""
    norms = np.where(c.gated > 0, 2.0, 4.0) * c.hidden
    matrices = np.where(c.gated > 0, 3.0, 2.0)
    share = np.where(c.layers > 0, c.moe_layers / np.maximum(c.layers, 1.0), 0.0)
    mlp = matrices * c.hidden * ((1.0 - share) * c.ffn + share * c.shared_ffn) / c.tp
    router = share * c.hidden * c.experts
    experts = share * matrices * c.hidden * c.expert_ffn * c.experts / (c.ep * c.etp)
    return attention.parameters(c) + norms + mlp + router, np.asarray(experts)


def stage_parameters(c: Columns) -> tuple[Array, Array]:
    """Parameters on the fullest rank of an end stage: its layers and one vocabulary matrix, both where it has both;
    and its experts."""
    block, experts = block_parameters(c)
    parallel = c.tp * np.where(c.vocab_parallel > 0, c.pp, 1.0)
    both = (c.pp == 1) | (c.schedule >= FOLDED_CODE)
    ends = np.where((c.tied < 1) & both, 2.0, 1.0)
    layers = np.maximum(c.first, c.last)
    return np.asarray(layers * block + ends * c.vocab * c.hidden / parallel), np.asarray(layers * experts)


def block_parameters(c: Columns) -> tuple[Array, Array]:
    """Matrices of an average layer on one rank: shared by all data-parallel ranks, and experts."""
    matrices = np.where(c.gated > 0, 3.0, 2.0)
    share = c.moe_layers / np.maximum(c.layers, 1.0)
    mlp = matrices * c.hidden * ((1.0 - share) * c.ffn + share * c.shared_ffn) / c.tp
    experts = share * matrices * c.hidden * c.experts * c.expert_ffn / (c.ep * c.etp)
    return np.asarray(attention.parameters(c) + mlp), np.asarray(experts)
