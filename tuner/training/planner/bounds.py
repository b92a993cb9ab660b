"""What no leaf of a cell can beat: time of the matrix products and attention alone, memory of the leanest leaf.

Both ignore what a leaf may choose, so they hold for all of them, and neither rises when memory, bandwidth or peak grow.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from tuner.training.attention import projections
from tuner.training.columns import FOLDED_CODE, RECOMPUTE_CODE, SCHEDULE_CODE, Array, Columns
from tuner.training.constants import Constants
from tuner.training.hardware import hardware
from tuner.training.memory import stage_totals
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.rows import (
    AWAY,
    CELL_WIDTH,
    OFFLOAD,
    PP,
    RECOMPUTE,
    SP,
    VOCAB,
    WIDTH,
    ZERO,
    Table,
    as_columns,
)
from tuner.training.transfers import link_seconds

_PASSES = 3.0  # forward, input gradients, weight gradients
_FLASH_PASSES = 3.5  # two products forward, five backward
_NO_FILL = SCHEDULE_CODE["zb-h1"]  # from this code on weight passes may fill warm-up and drain


def least_seconds(c: Columns, constants: Constants, *, spread: bool = False) -> Array:
    """Products of all layers and the output at the fitted share of peak, spread evenly over the stages, plus the
    emptiest pipeline that the schedule has; no cycle is shorter than the busiest link takes. Nothing waits for the host
    or for memory. `spread`: some leaf shares the output among all stages."""
    h = hardware(c, constants)
    tokens = c.micro_batch * c.seq / c.cp
    matrices = np.where(c.gated > 0, 3.0, 2.0)
    sparse = c.moe_layers / np.maximum(c.layers, 1.0)
    width = (1.0 - sparse) * c.ffn + sparse * (c.top_k * c.expert_ffn + c.shared_ffn)
    weights = sum(has * rows * columns for rows, columns, has in projections(c)) + c.hidden * matrices * width / c.tp
    products = _PASSES * 2.0 * tokens * weights / h.gemm
    scores = 2.0 * c.micro_batch * c.heads / c.tp * c.seq * c.seq / c.cp * (c.head_dim + c.value_dim)
    plain = _PASSES * scores / h.wide_gemm
    attention = np.where(c.flash > 0, 0.5 * _FLASH_PASSES * scores / h.attention, plain)
    output = _PASSES * 2.0 * tokens * c.hidden * c.vocab / c.tp / h.wide_gemm
    work = c.layers * (products + attention)
    # A stage takes at least its even share, and the one with the output at least that beside its layers.
    alone = np.where((c.schedule >= FOLDED_CODE) | spread, 0.0, output)
    slowest = np.maximum((work + output) / c.pp, np.maximum(c.most * (products + attention), alone))
    fill = np.where(c.schedule >= _NO_FILL, 0.0, np.maximum(work + output - slowest, 0.0) / c.vpp)
    return np.asarray(c.micro_batches * np.maximum(slowest, link_seconds(c, h.intra, h.node)) + fill)


def least_spare_bytes(question: PlanQuestion, cells: Table, constants: Constants, limit: float) -> Array:
    """Bytes that the fullest stage of each cell (all of one pipeline length) leaves free at its leanest; negative:
    no leaf fits."""
    best, rules = np.full(len(cells), -np.inf), question.rules
    pp = int(cells[0, PP])
    levels = (*rules.zero, *(rules.zero_without_pipeline if pp == 1 else ()))
    away = rules.offload_layers == "always" or (rules.offload_layers == "without-pipeline" and pp == 1)
    vocabulary = (0, 1) if len(rules.vocab_parallel) > 1 and pp > 1 else (0,)
    modes = [int(RECOMPUTE_CODE[name]) for name in rules.recompute[question.case.plan.attention]]
    # Weights that are fetched as they are needed take room, too: the highest level is not always the leanest. Of the
    # modes, full recomputation is leaner than any part of it but where a stage has a single layer.
    for mode, level, shared in product(modes, levels, vocabulary):
        lean = np.zeros((len(cells), WIDTH), dtype=np.int64)
        lean[:, :CELL_WIDTH] = cells
        lean[:, RECOMPUTE], lean[:, ZERO], lean[:, VOCAB], lean[:, SP] = mode, level, shared, 1
        lean[:, OFFLOAD] = bool(rules.optimizer_offload)
        if mode == 0 and away:
            lean[:, AWAY] = question.case.model.layers
        totals = stage_totals(as_columns(question, lean, constants), constants, pp)
        best = np.maximum(best, limit - totals.max(axis=1))
    return best
