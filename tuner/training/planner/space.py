"""The space as integer tables: cells (degrees, micro-batch, virtual stages), and per cell its leaves (recomputation,
sharded optimizer, sequence parallelism). Order of rows is the order of ties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from controlplane.model.training import ParallelPlan
from tuner.training.columns import RECOMPUTE_CODE, SCHEDULE_CODE, Columns, columns
from tuner.training.constants import Constants
from tuner.training.planner.question import PlanQuestion

Table = NDArray[np.int64]
TP, PP, DP, CP, EP, ETP, MICRO, VPP, RECOMPUTE, ZERO, SP = range(11)
_CELL = ("tp", "pp", "dp", "cp", "ep", "etp", "micro_batch", "vpp")
_RECOMPUTE = {int(code): name for name, code in RECOMPUTE_CODE.items()}


def cells(question: PlanQuestion) -> Table:
    """Every combination that divides and that the framework launches, columns TP to VPP."""
    found = [row for degrees in _degrees(question) for row in _steps(question, degrees)]
    return np.array(found, dtype=np.int64).reshape(len(found), len(_CELL))


def leaves(question: PlanQuestion, table: Table) -> Table:
    """The leaves of some cells, columns TP to SP."""
    case, fixed, rules = question.case, question.fixed, question.rules
    modes = [RECOMPUTE_CODE[name] for name in rules.recompute[case.plan.attention] if _free(fixed, "recompute", name)]
    shards = [level for level in rules.zero if _free(fixed, "zero", level)]
    splits = [split for split in (0, 1) if _free(fixed, "sp", bool(split))]
    flags = np.array([*product(modes, shards, splits)], dtype=np.int64).reshape(-1, 3)
    rows = np.hstack([np.repeat(table, len(flags), axis=0), np.tile(flags, (len(table), 1))])
    tp, ranks = rows[:, TP], rows[:, DP] * rows[:, CP]
    keep = (rows[:, SP] == 0) | ((tp > 1) & (case.model.seq // rows[:, CP] % tp == 0))
    keep &= (rows[:, ZERO] == 0) | (ranks > 1)
    if case.model.experts or case.plan.overlap_tp:
        keep &= (tp == 1) | (rows[:, SP] == 1)
    return cast(Table, rows[keep])


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
    interleaved = rows[:, VPP] > 1
    return replace(
        Columns(**shared), tp=part[TP], pp=part[PP], dp=part[DP], cp=part[CP], ep=part[EP], etp=part[ETP],
        vpp=part[VPP], micro_batch=part[MICRO],
        micro_batches=question.case.plan.global_batch / (part[DP] * part[MICRO]),
        schedule=np.where(interleaved, SCHEDULE_CODE["interleaved"], SCHEDULE_CODE["1f1b"]),
        recompute=part[RECOMPUTE], zero=part[ZERO], sp=part[SP], overlap_pp=interleaved.astype(np.float64),
        first=first.astype(np.float64), most=(short + (extra > 0)).astype(np.float64), last=short.astype(np.float64),
    )  # fmt: skip


def plan_of(question: PlanQuestion, row: Table) -> ParallelPlan:
    """One leaf as a plan."""
    named: dict[str, Any] = {name: int(value) for name, value in zip(_CELL, row, strict=False)}
    return replace(
        question.case.plan, **named, schedule="interleaved" if row[VPP] > 1 else "1f1b",
        recompute=cast(Any, _RECOMPUTE[int(row[RECOMPUTE])]), zero=int(row[ZERO]), sp=bool(row[SP]),
        overlap_pp=bool(row[VPP] > 1),
    )  # fmt: skip


def _degrees(question: PlanQuestion) -> Iterator[tuple[int, ...]]:
    model, fixed = question.case.model, question.fixed
    gpus = question.case.pools[0].gpus
    for tp in _divisors(gpus):
        if model.heads % tp or model.kv_heads % tp or model.ffn % tp or not _free(fixed, "tp", tp):
            continue
        for pp in _divisors(gpus // tp):
            if chunked_layers(model.layers, pp) is None or not _free(fixed, "pp", pp):
                continue
            for cp in _divisors(gpus // tp // pp):
                dp = gpus // tp // pp // cp
                if (cp > 1 and model.seq % (2 * cp)) or not _free(fixed, "cp", cp) or not _free(fixed, "dp", dp):
                    continue
                if question.case.plan.global_batch % dp:
                    continue
                for ep, etp in _experts(question, tp, dp * cp):
                    yield tp, pp, dp, cp, ep, etp


def _experts(question: PlanQuestion, tp: int, ranks: int) -> Iterator[tuple[int, int]]:
    experts, fixed = question.case.model.experts, question.fixed
    for ep in _divisors(experts) if experts else (1,):
        for etp in sorted({1, tp}) if experts else (1,):
            if ranks * tp % (ep * etp) == 0 and _free(fixed, "ep", ep) and _free(fixed, "etp", etp):
                yield ep, etp


def _steps(question: PlanQuestion, degrees: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    model, fixed = question.case.model, question.fixed
    pp, each = degrees[1], question.case.plan.global_batch // degrees[2]
    counted = chunked_layers(model.layers, pp)
    assert counted is not None
    for micro in _divisors(each):
        if not _free(fixed, "micro_batch", micro):
            continue
        for vpp in _divisors(counted // pp):
            schedule = "interleaved" if vpp > 1 else "1f1b"
            if vpp > 1 and (pp == 1 or each // micro % pp or vpp > model.layers // pp):
                continue
            if schedule in question.rules.schedules and _free(fixed, "vpp", vpp) and _free(fixed, "schedule", schedule):
                yield *degrees, micro, vpp


def chunked_layers(layers: int, pp: int) -> int | None:
    """Layers that the framework divides by the stages: the model's, or with the loss, or with the embedding too,
    counted as one each. None where none of them divides."""
    if pp > layers:
        return None
    return next((layers + ends for ends in (0, 1, 2) if (layers + ends) % pp == 0), None)


def _free(fixed: Any, name: str, value: Any) -> bool:
    return name not in fixed or value in fixed[name]


def _divisors(number: int) -> list[int]:
    low = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})
