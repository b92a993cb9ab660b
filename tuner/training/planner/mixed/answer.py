"""Plans over several pools as the planner's answer: cases to predict, terms of their iterations, why others lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from controlplane.model.errors import InvalidSpec, TrimtabError, Unsupported
from controlplane.model.training import TrainingCase
from tuner.training.constants import Constants
from tuner.training.evaluate import mixed_times, waterfall
from tuner.training.planner.explain import TERMS, WhyNot, summary
from tuner.training.planner.mixed.cells import Table, plan_of
from tuner.training.planner.mixed.kept import MixedFound, MixedPlan
from tuner.training.planner.mixed.misfits import nearest_to_fitting
from tuner.training.planner.mixed.search import search
from tuner.training.planner.question import PlanQuestion
from tuner.training.room import usable_bytes

_SEARCHED = ("tp", "pp", "dp", "cp", "ep", "etp", "vpp", "micro_batch", "schedule", "recompute", "zero", "sp",
             "overlap_dp")  # fmt: skip
_LEFT_OUT = {
    "recompute_layers": 0, "offload_layers": 0, "cp_mode": "ring", "optimizer_offload": "none", "vocab_parallel": "none",
    "sharding_groups": "none",
}  # fmt: skip
_GIB = 2**30


def check(question: PlanQuestion) -> None:
    """Raises Unsupported for what is not planned over several pools."""
    if question.rules.framework != "megatron-lm":
        raise Unsupported(
            "launches no stages of unequal size on several pools here", field="framework",
            value=question.rules.framework, limit="megatron-lm", hint="or give one pool",
        )  # fmt: skip
    for name, values in question.fixed.items():
        if name not in _SEARCHED and _LEFT_OUT.get(name) not in values:
            raise Unsupported(
                "is not searched over several pools", field=f"fix.{name}", value=", ".join(map(str, values)),
                limit=str(_LEFT_OUT.get(name)), hint="or give one pool",
            )  # fmt: skip


def case_of(question: PlanQuestion, table: Table, found: MixedPlan) -> TrainingCase:
    """A plan as `predict training` takes it."""
    plan = plan_of(question, table[found.cell], found.virtual, found.layers)
    return replace(question.case, plan=plan, stage_pools=found.pools)


def terms(case: TrainingCase, constants: Constants) -> dict[str, float]:
    """Seconds of each of TERMS; they add up to the iteration."""
    took = mixed_times(case, constants)
    parts = (took.busy - took.collectives, took.collectives, took.waiting, took.gradients, took.optimizer)
    return dict(zip(TERMS, (float(part[0]) for part in parts), strict=True))


def why_not(
    question: PlanQuestion, found: MixedFound, cases: Sequence[TrainingCase], constants: Constants, top: int, count: int
) -> list[WhyNot]:
    """`count` plans that lost, one of each way to split the work: the fastest that do not fit, at most half of them,
    and the next that do."""
    best, seen = found.plans[0], {_split(case) for case in cases[:top]}
    lost = _misfits(question, found, constants, seen, count // 2)
    won = terms(cases[0], constants)
    for case, plan in zip(cases[top:], found.plans[top:], strict=True):
        if len(lost) < count and _split(case) not in seen:
            seen.add(_split(case))
            more = {name: took - won[name] for name, took in terms(case, constants).items()}
            worst = max(more, key=lambda name: more[name])
            lost.append(WhyNot(
                case.plan, plan.seconds, slower=plan.seconds / best.seconds - 1.0,
                term=worst if more[worst] > 0 else None, term_s=more[worst] if more[worst] > 0 else None,
            ))  # fmt: skip
    return lost


def _misfits(
    question: PlanQuestion, found: MixedFound, constants: Constants, seen: set[tuple[int, ...]], count: int
) -> list[WhyNot]:
    lost, beat = list[WhyNot](), found.plans[0].seconds
    for plan in found.misfits:
        if len(lost) == count:
            break
        case = case_of(question, found.table, plan)
        if _split(case) in seen:
            continue
        over = _over_bytes(case, constants)
        stage = int(over.argmax())
        if over[stage] <= 0:
            continue
        took = float(mixed_times(case, constants).seconds[0])
        if took < beat:
            seen.add(_split(case))
            lost.append(WhyNot(case.plan, took, over_bytes=round(float(over[stage])), stage=stage))
    return lost


def _over_bytes(case: TrainingCase, constants: Constants) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    limits = [usable_bytes(case.pools[pool]) for pool in case.stage_pools]
    return np.asarray(waterfall(case, constants).total[0] - np.array(limits))


def _split(case: TrainingCase) -> tuple[int, ...]:
    plan = case.plan
    return (plan.tp, plan.cp, plan.dp, plan.ep, plan.etp, plan.pp)


def impossible(question: PlanQuestion, constants: Constants) -> TrimtabError:
    """The error for a question without an answer: which plan is nearest to fitting, and what is in the way."""
    nearest = nearest_to_fitting(question, constants)
    freed = [name for name in question.fixed if _freed(question, name, constants)]
    hint = f"there is a plan without fixing {' or '.join(freed)}" if freed else None
    if nearest is None:
        gpus = [pool.gpus for pool in question.case.pools]
        return InvalidSpec(
            f"no stage of equal degrees finds room on pools of {', '.join(map(str, gpus))} accelerators", code="NoPlan",
            field="fix" if question.fixed else "cluster", value=sorted(question.fixed) or gpus,
            limit=f"what {question.rules.framework} {question.rules.version} launches",
            hint=hint or "take a batch that more degrees divide",
        )  # fmt: skip
    case, lack = case_of(question, nearest.table, nearest.plan), max(round(nearest.over_bytes), 1)
    over = _over_bytes(case, constants)
    stage = int(over.argmax())
    pool = case.pools[case.stage_pools[stage]]
    return Unsupported(
        f"no plan fits: the nearest, {summary(case.plan)}, lacks {lack} bytes ({lack / _GIB:.2f} GiB) on stage {stage} "
        f"of {case.plan.pp}, {pool.gpu}",
        field="memory", value=lack, limit="0 bytes short on every stage", code="PlanDoesNotFit",
        hint=hint or "more accelerators, more memory or a smaller model",
    )  # fmt: skip


def _freed(question: PlanQuestion, name: str, constants: Constants) -> bool:
    other = replace(question, fixed={key: values for key, values in question.fixed.items() if key != name})
    return bool(search(other, constants, any_plan=True).plans)
