"""The space as integer tables: cells (degrees, micro-batch, virtual stages, schedule); `leaves` has what is chosen
inside a cell. Order of rows is the order of ties."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from controlplane.model.training import FOLDED
from tuner.training.columns import SCHEDULE_CODE
from tuner.training.folded import MOST_STAGES
from tuner.training.planner.leaves import leaves
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.rows import CELL_WIDTH, Table, as_columns, plan_of

__all__ = ["Table", "as_columns", "cells", "chunked_layers", "leaves", "plan_of"]


def cells(question: PlanQuestion) -> Table:
    """Every combination that divides and that the rules allow, columns TP to SCHEDULE."""
    found = [row for degrees in _degrees(question) for row in _steps(question, degrees)]
    return np.array(found, dtype=np.int64).reshape(len(found), CELL_WIDTH)


def chunked_layers(layers: int, pp: int) -> int | None:
    """Layers that the framework divides by the stages: the model's, or with the loss, or with the embedding too,
    counted as one each. None where none of them divides."""
    if pp > layers:
        return None
    return next((layers + ends for ends in (0, 1, 2) if (layers + ends) % pp == 0), None)


def _degrees(question: PlanQuestion) -> Iterator[tuple[int, ...]]:
    model, free, rules = question.case.model, question.free, question.rules
    gpus = question.case.pools[0].gpus
    for tp in _divisors(gpus):
        if model.heads % tp or model.kv_heads % tp or model.ffn % tp or not free("tp", tp):
            continue
        for pp in _divisors(gpus // tp):
            counted = chunked_layers(model.layers, pp)
            if counted is None or not free("pp", pp) or (pp > 1 and tp > 1 and not rules.tp_beside_pipeline):
                continue
            if counted > model.layers and not rules.counts_ends_as_layers:
                continue
            for cp in _divisors(gpus // tp // pp):
                dp = gpus // tp // pp // cp
                if (cp > 1 and model.seq % (2 * cp)) or not free("cp", cp) or not free("dp", dp):
                    continue
                if cp > 1 and tp * pp > 1 and rules.cp_beside == "data-parallel":
                    continue
                if question.case.plan.global_batch % dp:
                    continue
                for ep, etp in _experts(question, tp, dp * cp):
                    yield tp, pp, dp, cp, ep, etp


def _experts(question: PlanQuestion, tp: int, ranks: int) -> Iterator[tuple[int, int]]:
    experts, free = question.case.model.experts, question.free
    alone = question.rules.expert_tensor == "instead-of-ep"
    for ep in _divisors(experts) if experts else (1,):
        for etp in ((1 if ep > 1 else tp,) if alone else sorted({1, tp})) if experts else (1,):
            if ranks * tp % (ep * etp) == 0 and free("ep", ep) and free("etp", etp):
                yield ep, etp


def _steps(question: PlanQuestion, degrees: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    pp, each, free = degrees[1], question.case.plan.global_batch // degrees[2], question.free
    for micro in _divisors(each):
        if not free("micro_batch", micro):
            continue
        for schedule in question.rules.schedules:
            if not free("schedule", schedule):
                continue
            for vpp in _chunks(question, schedule, pp, each // micro):
                if free("vpp", vpp):
                    yield *degrees, micro, vpp, int(SCHEDULE_CODE[schedule])


def _chunks(question: PlanQuestion, schedule: str, pp: int, micro_batches: int) -> Iterator[int]:
    """Chunks per stage that a schedule can have."""
    layers = question.case.model.layers
    counted = chunked_layers(layers, pp)
    assert counted is not None
    if schedule in FOLDED:
        if 1 < pp <= MOST_STAGES and layers % (2 * pp) == 0:
            yield 2
    elif schedule == "interleaved":
        if pp > 1 and micro_batches % pp == 0:
            yield from (vpp for vpp in _divisors(counted // pp) if 1 < vpp <= layers // pp)
    elif schedule == "1f1b" or pp > 1:  # without a pipeline they are all the same
        yield 1


def _divisors(number: int) -> list[int]:
    low = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})
