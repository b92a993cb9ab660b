"""One leaf of the space as a row of whole numbers: what each column is, the row as the evaluator's columns, as a plan."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from controlplane.model.training import ParallelPlan
from tuner.training.columns import (
    CONTEXT_CODE,
    OFFLOAD_CODE,
    RECOMPUTE_CODE,
    SCHEDULE_CODE,
    VOCABULARY_CODE,
    Columns,
    columns,
)
from tuner.training.constants import Constants
from tuner.training.planner.question import PlanQuestion

Table = NDArray[np.int64]
TP, PP, DP, CP, EP, ETP, MICRO, VPP, SCHEDULE = range(9)
RECOMPUTE, AGAIN, ZERO, GROUPS, SP, MODE, OFFLOAD, AWAY, VOCAB, OVERLAP = range(9, 19)
CELL_WIDTH, WIDTH = 9, 19
FEWEST = -1  # in AGAIN and AWAY: as few layers as make the plan fit, which is the fastest of them
GROUP_CODE = {"none": 0, "hpz": 1, "three-level": 2}
_NUMBERS = ("tp", "pp", "dp", "cp", "ep", "etp", "micro_batch", "vpp")
_PAIR = 2  # accelerators that share one copy of the weights at three levels


def _names(codes: dict[str, float]) -> dict[int, Any]:
    """Names by code; of several names for one code, the first."""
    found: dict[int, Any] = {}
    for name, code in codes.items():
        found.setdefault(int(code), name)
    return found


_SCHEDULES, _RECOMPUTE, _MODES = _names(SCHEDULE_CODE), _names(RECOMPUTE_CODE), _names(CONTEXT_CODE)
_OFFLOADS, _VOCABULARY = _names(OFFLOAD_CODE), _names(VOCABULARY_CODE)


def node_ranks(question: PlanQuestion, tp: NDArray[Any]) -> Table:
    """Data-parallel neighbours that share a node."""
    return np.asarray(np.maximum(question.case.pools[0].gpus_per_node // tp, 1), dtype=np.int64)


def layers_per_chunk(question: PlanQuestion, rows: Table) -> Table:
    """Layers of the fullest chunk."""
    most = -(-question.case.model.layers // rows[:, PP])
    return np.asarray(-(-most // rows[:, VPP]), dtype=np.int64)


def as_columns(question: PlanQuestion, rows: Table, constants: Constants) -> Columns:
    """Leaves as the evaluator's columns; what all share is one number seen many times."""
    base = columns([(question.case, 0)], tuple(constants.accelerators))
    shared: dict[str, Any] = {}
    for item in fields(Columns):
        value = getattr(base, item.name)
        shared[item.name] = np.broadcast_to(value, len(rows)) if isinstance(value, np.ndarray) else value
    part = rows.astype(np.float64).T
    layers, pp = question.case.model.layers, rows[:, PP]
    short, extra = layers // pp, layers % pp
    # As `stage_layers`: the ends go short first, the last one before the first.
    first = short + ((extra == pp - 1) & (extra > 0))
    most = (short + (extra > 0)).astype(np.float64)
    node = node_ranks(question, rows[:, TP])
    grouped = rows[:, GROUPS]
    return replace(
        Columns(**shared), tp=part[TP], pp=part[PP], dp=part[DP], cp=part[CP], ep=part[EP], etp=part[ETP],
        vpp=part[VPP], micro_batch=part[MICRO],
        micro_batches=question.case.plan.global_batch / (part[DP] * part[MICRO]),
        schedule=part[SCHEDULE], recompute=part[RECOMPUTE],
        recomputed=np.where(part[AGAIN] > 0, np.minimum(part[AGAIN] * part[VPP], most), most),
        zero=part[ZERO], sp=part[SP], cp_mode=part[MODE], optimizer_offload=part[OFFLOAD],
        offload_layers=np.maximum(part[AWAY], 0.0), vocab_parallel=part[VOCAB], overlap_dp=part[OVERLAP],
        overlap_pp=(rows[:, SCHEDULE] == 2).astype(np.float64),
        secondary_group=np.where(grouped == 1, node, 0).astype(np.float64),
        weight_group=np.where(grouped == 2, _PAIR, 0).astype(np.float64),
        gradient_group=np.where(grouped == 2, node, 0).astype(np.float64),
        first=first.astype(np.float64), most=most, last=short.astype(np.float64),
    )  # fmt: skip


def plan_of(question: PlanQuestion, row: Table) -> ParallelPlan:
    """One leaf as a plan."""
    named: dict[str, Any] = {name: int(value) for name, value in zip(_NUMBERS, row, strict=False)}
    node = int(node_ranks(question, row[TP : TP + 1])[0])
    grouped = int(row[GROUPS])
    return replace(
        question.case.plan, **named, schedule=cast(Any, _SCHEDULES[int(row[SCHEDULE])]),
        recompute=cast(Any, _RECOMPUTE[int(row[RECOMPUTE])]), recompute_layers=int(row[AGAIN]), zero=int(row[ZERO]),
        sp=bool(row[SP]), cp_mode=cast(Any, _MODES[int(row[MODE])]),
        optimizer_offload=cast(Any, _OFFLOADS[int(row[OFFLOAD])]), offload_layers=int(row[AWAY]),
        vocab_parallel=cast(Any, _VOCABULARY[int(row[VOCAB])]), overlap_dp=bool(row[OVERLAP]),
        overlap_pp=bool(row[SCHEDULE] == 2), secondary_group=node if grouped == 1 else 0,
        weight_group=_PAIR if grouped == 2 else 0, gradient_group=node if grouped == 2 else 0,
    )  # fmt: skip
