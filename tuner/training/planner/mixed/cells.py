"""What all stages of a plan share: degrees inside a stage, micro-batch, recomputation, sharding. One row is a cell."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from controlplane.model.training import ParallelPlan, TrainingPool
from tuner.training.columns import RECOMPUTE_CODE, SCHEDULE_CODE, Columns, columns
from tuner.training.constants import Constants
from tuner.training.planner.question import PlanQuestion
from tuner.training.staged import taken

Table = NDArray[np.int64]
TP, CP, DP, EP, ETP, MICRO, RECOMPUTE, ZERO, SP = range(9)
_RECOMPUTE = {int(code): name for name, code in RECOMPUTE_CODE.items()}


def cells(question: PlanQuestion) -> Table:
    """Every combination that divides, that the framework launches and of which at least one stage has room."""
    case = question.case
    model, batch = case.model, case.plan.global_batch
    found: list[tuple[int, ...]] = []
    for tp in _divisors(max(pool.gpus_per_node for pool in case.pools)):
        if model.heads % tp or model.kv_heads % tp or model.ffn % tp or not question.free("tp", tp):
            continue
        most = max(slots(pool, tp) for pool in case.pools)
        for dp in _divisors(batch):
            if dp > most or not question.free("dp", dp):
                continue
            for cp in _divisors(model.seq):
                if dp * cp > most or (cp > 1 and model.seq % (2 * cp)) or not question.free("cp", cp):
                    continue
                found += _inside(question, tp, cp, dp)
    return np.array(found, dtype=np.int64).reshape(len(found), 9)


def slots(pool: TrainingPool, tp: int) -> int:
    """Tensor parallel groups that a pool seats, none of them across nodes."""
    inside, outside = divmod(pool.gpus, pool.gpus_per_node)
    return inside * (pool.gpus_per_node // tp) + outside // tp


def stages_of(question: PlanQuestion, table: Table) -> Table:
    """Stages that each pool holds, shape (cells, pools); never more than there are layers."""
    degrees, which = np.unique(table[:, TP], return_inverse=True)
    each = np.array([[slots(pool, int(tp)) for pool in question.case.pools] for tp in degrees], dtype=np.int64)[which]
    counts = each.reshape(len(table), len(question.case.pools)) // (table[:, DP] * table[:, CP])[:, None]
    return np.minimum(counts, question.case.model.layers)


def pool_rows(question: PlanQuestion, table: Table, constants: Constants) -> Columns:
    """A column row for every cell and pool, cell after cell: parameters of a stage of one layer with one vocabulary
    matrix, and the widest window to hide its gradients behind."""
    pools = len(question.case.pools)
    base = columns([(question.case, index) for index in range(pools)], tuple(constants.accelerators))
    rows = taken(base, np.tile(np.arange(pools), len(table)))
    part = np.repeat(table, pools, axis=0).astype(np.float64).T
    one, layers = np.ones(len(rows)), np.full(len(rows), float(question.case.model.layers))
    return replace(
        rows, tp=part[TP], cp=part[CP], dp=part[DP], ep=part[EP], etp=part[ETP], micro_batch=part[MICRO],
        micro_batches=question.case.plan.global_batch / (part[DP] * part[MICRO]), recompute=part[RECOMPUTE],
        zero=part[ZERO], sp=part[SP], pp=np.where(rows.tied > 0, 1.0, 2.0), vpp=one, first=one, last=one, most=layers,
        recomputed=layers,
    )  # fmt: skip


def shaped(rows: Columns, p: int, v: int) -> Columns:
    """The rows as stages of a pipeline of p stages with v chunks each."""
    whole = np.ones(len(rows))
    code = SCHEDULE_CODE["interleaved" if v > 1 else "1f1b"]
    return replace(rows, pp=p * whole, vpp=v * whole, schedule=code * whole, overlap_pp=(v > 1) * whole)


def longest(question: PlanQuestion, table: Table, most: int) -> Table:
    """Stages that a pipeline of each cell may have: one where its sharding goes without a pipeline only."""
    return np.where(np.isin(table[:, ZERO], question.rules.zero), most, 1)


def plan_of(question: PlanQuestion, cell: Table, virtual: int, layers: tuple[int, ...]) -> ParallelPlan:
    """A cell with its stages as a plan."""
    tp, cp, dp, ep, etp, micro, mode, zero, sp = (int(value) for value in cell)
    return replace(
        question.case.plan, tp=tp, cp=cp, dp=dp, ep=ep, etp=etp, micro_batch=micro, zero=zero, sp=bool(sp),
        recompute=cast(Any, _RECOMPUTE[mode]), pp=len(layers), vpp=virtual, layers_per_stage=layers,
        schedule="interleaved" if virtual > 1 else "1f1b", overlap_pp=virtual > 1,
    )  # fmt: skip


def _inside(question: PlanQuestion, tp: int, cp: int, dp: int) -> list[tuple[int, ...]]:
    case, rules = question.case, question.rules
    model, each = case.model, case.plan.global_batch // dp
    modes = [int(RECOMPUTE_CODE[name]) for name in rules.recompute[case.plan.attention]
             if question.free("recompute", name)]  # fmt: skip
    levels = (*rules.zero, *rules.zero_without_pipeline)
    shards = [level for level in levels if question.free("zero", level) and (level == 0 or dp * cp > 1)]
    splits = [split for split in (0, 1) if question.free("sp", bool(split))]
    splits = [split for split in splits if not split or (tp > 1 and model.seq // cp % tp == 0)]
    if tp > 1 and (model.experts or case.plan.overlap_tp):
        splits = [split for split in splits if split]
    micros = [micro for micro in _divisors(each) if question.free("micro_batch", micro)]
    return [
        (tp, cp, dp, ep, etp, micro, mode, zero, sp)
        for (ep, etp), micro, mode, zero, sp in product(_experts(question, tp, dp * cp), micros, modes, shards, splits)
    ]


def _experts(question: PlanQuestion, tp: int, ranks: int) -> list[tuple[int, int]]:
    experts = question.case.model.experts
    if not experts:
        return [(1, 1)]
    return [
        (ep, etp) for ep in _divisors(experts) for etp in sorted({1, tp})
        if ranks * tp % (ep * etp) == 0 and question.free("ep", ep) and question.free("etp", etp)
    ]  # fmt: skip


def _divisors(number: int) -> list[int]:
    low = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})
