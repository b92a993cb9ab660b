"""Why a plan lost: bytes over at a stage, or which part of its iteration takes longer than the winner's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.training import ParallelPlan
from tuner.training.constants import Constants
from tuner.training.iteration import iteration, stage_parts
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.rows import (
    AGAIN,
    AWAY,
    CP,
    EP,
    ETP,
    GROUPS,
    MICRO,
    MODE,
    OFFLOAD,
    PP,
    RECOMPUTE,
    SCHEDULE,
    SP,
    TP,
    VOCAB,
    VPP,
    ZERO,
    Table,
    as_columns,
    plan_of,
)
from tuner.training.planner.search import Found, nearest_to_fitting, spare_bytes
from tuner.training.planner.space import cells, leaves

TERMS = ("compute", "collectives in layers", "pipeline: bubble, transfers, uneven stages", "gradient traffic",
         "optimizer")  # fmt: skip
_GIB = 2**30
_FEWER = 64  # smaller numbers of nodes that are tried
_ROUNDING = 1e-12  # of an iteration: less is what subtraction leaves of nothing
# Columns that belong to one choice.
_CHOICES = ((TP,), (PP,), (CP, MODE), (EP, ETP), (SCHEDULE, VPP), (MICRO,), (RECOMPUTE, AGAIN), (ZERO, GROUPS), (SP,),
            (OFFLOAD, AWAY), (VOCAB,))  # fmt: skip


@dataclass(frozen=True, slots=True)
class WhyNot:
    """A plan that lost. `over_bytes` at `stage` where it does not fit; else `slower` as a share, most of it in
    `term`."""

    plan: ParallelPlan
    iteration_s: float
    over_bytes: int | None = None
    stage: int | None = None
    slower: float | None = None
    term: str | None = None
    term_s: float | None = None

    @property
    def message(self) -> str:
        """The reason in one sentence."""
        if self.over_bytes is not None:
            return f"stage {self.stage} needs {self.over_bytes / _GIB:.2f} GiB more than there is"
        assert self.slower is not None
        if self.term is None or self.term_s is None:
            return f"{100 * self.slower:.1f} % slower"
        return f"{100 * self.slower:.1f} % slower, most of it {self.term} (+{self.term_s:.3g} s)"


def terms(question: PlanQuestion, rows: Table, constants: Constants) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Seconds of each of TERMS, shape (rows, terms); a row adds up to its iteration."""
    c = as_columns(question, rows, constants)
    whole, parts = iteration(c, constants), stage_parts(c, constants)
    busy = whole.seconds - parts.gradients - parts.optimizer
    work = (1.0 - whole.bubble) * busy
    collectives = np.minimum(c.micro_batches * c.layers / c.pp * parts.layer.exposed, work)
    found = np.stack([work - collectives, collectives, busy - work, parts.gradients, parts.optimizer], axis=1)
    return np.where(np.abs(found) > _ROUNDING * whole.seconds[:, None], found, 0.0)


def why_not(question: PlanQuestion, found: Found, constants: Constants, top: int, count: int) -> list[WhyNot]:
    """`count` plans that lost, one of each way to differ from the winner: of the fastest that do not fit, at most half
    of them, and of the next that do."""
    if not len(found.rows):
        return []
    seen: set[tuple[bool, ...]] = set()
    short = _diverse(found.losers, found.rows[0], seen, count // 2)
    next_ones = [top + at for at in _diverse(found.rows[top:], found.rows[0], seen, count - len(short))]
    rows = np.vstack([found.losers[short], found.rows[next_ones]])
    times = np.concatenate([found.loser_seconds[short], found.seconds[next_ones]])
    if not len(rows):
        return []
    spare, stage = spare_bytes(question, rows, constants)
    extra = terms(question, rows, constants) - terms(question, found.rows[:1], constants)
    answers = []
    for at in range(len(rows)):
        plan, took = plan_of(question, rows[at]), float(times[at])
        if spare[at] < 0:
            answers.append(WhyNot(plan, took, over_bytes=round(-float(spare[at])), stage=int(stage[at])))
            continue
        worst = int(extra[at].argmax())
        more = float(extra[at, worst])
        answers.append(WhyNot(
            plan, took, slower=took / float(found.seconds[0]) - 1.0,
            term=TERMS[worst] if more > 0 else None, term_s=more if more > 0 else None,
        ))  # fmt: skip
    return answers


def _diverse(rows: Table, winner: Table, seen: set[tuple[bool, ...]], count: int) -> list[int]:
    """`count` rows, ways to differ from the winner that were not seen first: for each choice the fastest of those that
    differ in it and in the fewest others, then the fastest. `seen` grows."""
    unlike = rows != winner
    ways = np.stack([unlike[:, list(columns)].any(axis=1) for columns in _CHOICES], axis=1)
    others = ways.sum(axis=1)
    nearest = [np.flatnonzero(way)[others[way].argmin()] for way in ways.T if way.any()]
    found: list[int] = []
    for at in (*nearest, *range(len(rows))):
        way = tuple(bool(word) for word in ways[at])
        if len(found) < count and way not in seen:
            seen.add(way)
            found.append(int(at))
    return sorted(found)


def impossible(question: PlanQuestion, constants: Constants) -> InvalidSpec | Unsupported:
    """The error for a question without an answer: which constraint is nearest to letting a plan through."""
    nearest = nearest_to_fitting(question, constants)
    if nearest is None:
        return _empty(question)
    row, stage, spare = nearest
    plan = plan_of(question, row)
    freed = [name for name in question.fixed if _fits_without(question, name, constants)]
    hint = f"a plan fits without {' or without '.join(_spelled(question, name) for name in freed)}" if freed else (
        "more accelerators, more memory or a smaller model; nothing that was fixed is in the way"
    )  # fmt: skip
    lack = round(-spare)
    return Unsupported(
        f"no plan fits: the nearest, {summary(plan)}, lacks {lack} bytes ({lack / _GIB:.2f} GiB) on stage {stage} of "
        f"{int(row[PP])}",
        field="memory", value=lack, limit="0 bytes short on every stage", hint=hint, code="PlanDoesNotFit",
    )  # fmt: skip


def summary(plan: ParallelPlan) -> str:
    """A plan in one line."""
    parts = [f"tp {plan.tp}", f"pp {plan.pp}", f"dp {plan.dp}"]
    for name in ("cp", "ep", "etp", "vpp"):
        if getattr(plan, name) > 1:
            parts.append(f"{name} {getattr(plan, name)}")
    parts.append(f"micro-batch {plan.micro_batch}")
    if plan.schedule not in ("1f1b", "interleaved"):
        parts.insert(2, plan.schedule)
    if plan.layers_per_stage:
        parts.append(f"layers {_runs(plan.layers_per_stage)}")
    if plan.recompute != "none":
        some = f" of {plan.recompute_layers} layers per chunk" if plan.recompute_layers else ""
        parts.append(f"{plan.recompute} recomputation{some}")
    parts += ["distributed optimizer"] * (plan.zero == 1) + [f"zero {plan.zero}"] * (plan.zero > 1)
    parts += [f"second weights in {plan.secondary_group}"] * (plan.secondary_group > 0)
    parts += [f"weights in {plan.weight_group}, gradients in {plan.gradient_group}"] * (plan.weight_group > 0)
    parts += [f"optimizer on {plan.optimizer_offload}"] * (plan.optimizer_offload != "none")
    parts += [f"activations of {plan.offload_layers} layers in host memory"] * (plan.offload_layers > 0)
    parts += [plan.vocab_parallel] * (plan.vocab_parallel != "none")
    parts += ["ulysses"] * (plan.cp > 1 and plan.cp_mode == "ulysses") + ["sp"] * plan.sp
    return ", ".join(parts)


def _runs(counts: tuple[int, ...]) -> str:
    """Layers of the stages, equal neighbours together: 2 x 14 + 3 x 6."""
    runs = [(count, len(list(group))) for count, group in groupby(counts)]
    return " + ".join(f"{size} x {count}" if size > 1 else str(count) for count, size in runs)


def _empty(question: PlanQuestion) -> InvalidSpec:
    pool, batch = question.case.pools[0], question.case.plan.global_batch
    freed = [name for name in question.fixed if _any(_without(question, name))]
    hint = None
    if freed:
        hint = f"there are some without {' or without '.join(_spelled(question, name) for name in freed)}"
    elif (fewer := _fewer(question)) is not None:
        hint = f"{fewer} accelerators would do: give --gpus {fewer} and leave {pool.gpus - fewer} idle"
    return InvalidSpec(
        f"no combination divides {pool.gpus} accelerators, {question.case.model.layers} layers and {batch} sequences",
        field="fix" if question.fixed else "gpus", value=[_spelled(question, name) for name in question.fixed] or pool.gpus,
        limit=f"what {question.rules.framework} {question.rules.version} launches on all accelerators",
        hint=hint or "take a batch and a number of accelerators with common divisors", code="NoPlan",
    )  # fmt: skip


def _fewer(question: PlanQuestion) -> int | None:
    """The nearest smaller number of accelerators, whole nodes of them, that something divides."""
    pool = question.case.pools[0]
    step = pool.gpus_per_node if pool.gpus > pool.gpus_per_node else 1
    for gpus in range(pool.gpus - step, 0, -step)[:_FEWER]:
        smaller = replace(question.case, pools=(replace(pool, gpus=gpus),))
        if _any(replace(question, case=smaller)):
            return gpus
    return None


def _without(question: PlanQuestion, name: str) -> PlanQuestion:
    return replace(question, fixed={key: values for key, values in question.fixed.items() if key != name})


def _any(question: PlanQuestion) -> bool:
    table = cells(question)
    return bool(len(table)) and bool(len(leaves(question, table)))


def _fits_without(question: PlanQuestion, name: str, constants: Constants) -> bool:
    nearest = nearest_to_fitting(_without(question, name), constants)
    return nearest is not None and nearest[2] >= 0


def _spelled(question: PlanQuestion, name: str) -> str:
    return f"{name}={','.join(str(value).lower() for value in question.fixed[name])}"
