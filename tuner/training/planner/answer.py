"""The planner's answer: the best plans with all that `predict training` says of them, the front, and why not others."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from controlplane.model.errors import InvalidSpec
from controlplane.model.training import ParallelPlan, TrainingCase
from tuner.training.constants import Constants, shipped
from tuner.training.planner.explain import TERMS, WhyNot, impossible, terms, why_not
from tuner.training.planner.mixed import answer as mixed
from tuner.training.planner.mixed.kept import KEPT
from tuner.training.planner.mixed.search import search as search_mixed
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.search import Found, Progress, Snapshot, search
from tuner.training.planner.space import plan_of
from tuner.training.predict import Predictor

WHY_NOT = 10
MOST_TOP = 50
_SETTINGS = ("tp", "pp", "dp", "cp", "ep", "etp", "vpp", "schedule", "micro_batch", "global_batch", "recompute", "zero",
             "sp", "precision", "framework", "attention", "overlap_dp", "overlap_tp", "overlap_pp", "gradient_bytes",
             "recompute_layers", "cp_mode", "weight_group", "gradient_group", "secondary_group", "optimizer_offload",
             "offload_layers", "vocab_parallel")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ranked:
    """A plan that fits. `predicted`: the fields of `predict training`; `terms_s` add up to its iteration.
    `stage_pools`: the pool of every stage, where there are several."""

    plan: ParallelPlan
    predicted: dict[str, Any]
    terms_s: dict[str, float]
    stage_pools: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingAnswer:
    """`front`: the plans among the fastest ones (`kept`) that no other of them beats in both time and energy."""

    case: TrainingCase
    framework: str
    best: tuple[Ranked, ...]
    front: tuple[Ranked, ...]
    front_of: int
    why_not: tuple[WhyNot, ...]
    proof: Snapshot
    cells: int
    cells_out_of_memory: int
    plans_costed: int
    kept: tuple[Ranked, ...] = ()
    stopped_after_s: float | None = None  # the limit, where it ended the search

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        proof = self.proof
        return {
            "framework": self.framework,
            "model": asdict(self.case.model),
            "cluster": asdict(self.case.pools[0])
            if len(self.case.pools) == 1
            else [asdict(pool) for pool in self.case.pools],
            "proof": {
                "incumbent_s": proof.incumbent_s, "bound_s": proof.bound_s, "gap": proof.gap,
                "complete": proof.cells_left == 0, "groups": self.cells, "groups_out_of_memory":
                self.cells_out_of_memory, "groups_left": proof.cells_left, "plans_costed": self.plans_costed, "stopped_after_s": self.stopped_after_s,
            },
            "best": [_ranked(item) for item in self.best],
            "front": {"of_fastest": self.front_of, "plans": [_ranked(item) for item in self.front]},
            "why_not": [
                {"plan": settings(item.plan), "message": item.message, **{
                    name: value for name, value in asdict(item).items() if name != "plan" and value is not None
                }} for item in self.why_not
            ],
        }  # fmt: skip


class Planner:
    """Holds the constants; one instance answers any number of questions."""

    def __init__(self, constants: Constants | None = None, predictor: Predictor | None = None) -> None:
        self._constants = shipped() if constants is None else constants
        self._predictor = Predictor(constants) if predictor is None else predictor

    @property
    def constants(self) -> Constants:
        """What the answers rest on."""
        return self._constants

    def plan(
        self, question: PlanQuestion, *, top: int = 3, progress: Progress | None = None, limit_s: float | None = None
    ) -> TrainingAnswer:
        """The `top` fastest plans that fit. Raises Unsupported where none fits (the nearest one and its bytes) and
        InvalidSpec where nothing divides."""
        if not 1 <= top <= MOST_TOP:
            raise InvalidSpec("out of range", field="top", value=top, limit=f"1 to {MOST_TOP}")
        if limit_s is not None and not limit_s >= 0.0:  # not a number, too
            raise InvalidSpec("is no time", field="limit_s", value=str(limit_s), limit="0 s or more", hint="say 30")
        if len(question.case.pools) > 1:
            return self._plan_mixed(question, top, progress, limit_s)
        found = search(question, self._constants, progress=progress, limit_s=limit_s)
        if not len(found.rows):
            if found.snapshot.cells_left:
                raise InvalidSpec("stopped before a plan was found", field="limit_s", value=limit_s, hint="give more")
            raise impossible(question, self._constants)
        ranked = self._ranked(question, found)
        return TrainingAnswer(
            case=question.case,
            framework=f"{question.rules.framework} {question.rules.version}",
            best=tuple(ranked[:top]),
            front=tuple(_front(ranked)),
            front_of=len(ranked),
            kept=tuple(ranked),
            why_not=tuple(why_not(question, found, self._constants, top, WHY_NOT)),
            proof=found.snapshot,
            cells=found.cells,
            cells_out_of_memory=found.cells_out_of_memory,
            plans_costed=found.leaves_costed,
            stopped_after_s=limit_s if found.snapshot.cells_left else None,
        )

    def _plan_mixed(
        self, question: PlanQuestion, top: int, progress: Progress | None, limit_s: float | None
    ) -> TrainingAnswer:
        mixed.check(question)
        keep = max(KEPT, top + WHY_NOT)
        found = search_mixed(question, self._constants, progress=progress, limit_s=limit_s, keep=keep)
        if not found.plans:
            if found.snapshot.cells_left:
                raise InvalidSpec("stopped before a plan was found", field="limit_s", value=limit_s, hint="give more")
            raise mixed.impossible(question, self._constants)
        cases = [mixed.case_of(question, found.table, plan) for plan in found.plans]
        ranked = [
            Ranked(case.plan, self._predictor.answer(case), mixed.terms(case, self._constants), case.stage_pools)
            for case in cases
        ]
        return TrainingAnswer(
            case=question.case,
            framework=f"{question.rules.framework} {question.rules.version}",
            best=tuple(ranked[:top]),
            front=tuple(_front(ranked)),
            front_of=len(ranked),
            kept=tuple(ranked),
            why_not=tuple(mixed.why_not(question, found, cases, self._constants, top, WHY_NOT)),
            proof=found.snapshot,
            cells=len(found.table),
            cells_out_of_memory=len(found.table) - found.cells,
            plans_costed=found.plans_costed,
            stopped_after_s=limit_s if found.late else None,
        )

    def _ranked(self, question: PlanQuestion, found: Found) -> list[Ranked]:
        parts = terms(question, found.rows, self._constants)
        ranked = []
        for row, split in zip(found.rows, parts, strict=True):
            plan = plan_of(question, row)
            predicted = self._predictor.answer(replace(question.case, plan=plan))
            ranked.append(Ranked(plan, predicted, dict(zip(TERMS, map(float, split), strict=True))))
        return ranked


def settings(plan: ParallelPlan) -> dict[str, Any]:
    """A plan in the fields of `predict training`."""
    return {name: getattr(plan, name) for name in _SETTINGS}


def _front(ranked: list[Ranked]) -> list[Ranked]:
    """Fastest first; each next one takes less energy. Without a known power limit there is no front."""
    front: list[Ranked] = []
    for item in ranked:
        energy = item.predicted["energy_j"]
        if energy is not None and (not front or energy < front[-1].predicted["energy_j"]):
            front.append(item)
    return front


def _ranked(item: Ranked) -> dict[str, Any]:
    plan = settings(item.plan)
    if item.stage_pools:
        plan |= {"layers_per_stage": list(item.plan.layers_per_stage), "stage_pools": list(item.stage_pools)}
    return {"plan": plan, **item.predicted, "terms_s": item.terms_s}
