"""What no leaf of a cell can beat: time of the matrix products and attention alone, memory of the leanest leaf.

Both ignore what a leaf may choose, so they hold for all of them, and neither rises when memory, bandwidth or peak grow.
"""

from __future__ import annotations

import numpy as np

from tuner.training.columns import RECOMPUTE_CODE, Array, Columns
from tuner.training.constants import Constants
from tuner.training.hardware import hardware
from tuner.training.memory import stage_totals
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.space import SP, ZERO, Table, as_columns

_PASSES = 3.0  # forward, input gradients, weight gradients
_FLASH_PASSES = 3.5  # two products forward, five backward


def least_seconds(c: Columns, constants: Constants) -> Array:
    """Products of all layers and the output at the fitted share of peak, spread evenly over the stages, plus the
    emptiest pipeline that the schedule has. Nothing waits for the host, for memory or for a link."""
    h = hardware(c, constants)
    tokens = c.micro_batch * c.seq / c.cp
    query = c.heads * c.head_dim / c.tp
    keys = np.maximum(c.kv_heads / c.tp, 1.0) * c.head_dim
    matrices = np.where(c.gated > 0, 3.0, 2.0)
    sparse = c.moe_layers / np.maximum(c.layers, 1.0)
    width = (1.0 - sparse) * c.ffn + sparse * (c.top_k * c.expert_ffn + c.shared_ffn)
    weights = c.hidden * (2.0 * query + 2.0 * keys + matrices * width / c.tp)
    products = _PASSES * 2.0 * tokens * weights / h.gemm
    scores = 4.0 * c.micro_batch * c.heads / c.tp * c.seq * c.seq / c.cp * c.head_dim
    plain = _PASSES * scores / h.gemm
    attention = np.where(c.flash > 0, 0.5 * _FLASH_PASSES * scores / h.attention, plain)
    output = _PASSES * 2.0 * tokens * c.hidden * c.vocab / c.tp / h.gemm
    work = c.layers * (products + attention)
    # A stage takes at least its even share, and the one with the output at least that beside its layers.
    slowest = np.maximum((work + output) / c.pp, np.maximum(c.most * (products + attention), output))
    return np.asarray(c.micro_batches * slowest + np.maximum(work + output - slowest, 0.0) / c.vpp)


def least_spare_bytes(question: PlanQuestion, cells: Table, constants: Constants, limit: float) -> Array:
    """Bytes that the fullest stage of each cell (all of one pipeline length) leaves free at its leanest; negative:
    no leaf fits."""
    best = np.full(len(cells), -np.inf)
    for name in question.rules.recompute[question.case.plan.attention]:  # a single layer is leaner without
        mode = int(RECOMPUTE_CODE[name])
        lean = np.hstack([cells, np.tile([mode, 0, 0], (len(cells), 1))])
        lean[:, ZERO] = max(question.rules.zero)
        lean[:, SP] = 1
        totals = stage_totals(as_columns(question, lean, constants), constants, int(cells[0, 1]))
        best = np.maximum(best, limit - totals.max(axis=1))
    return best
