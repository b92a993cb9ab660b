"""The training planner behind the floor's port: requests in, answers out, both as documents."""

from __future__ import annotations

import time
from collections.abc import Callable

from pydantic.alias_generators import to_camel

from controlplane.model.errors import TrimtabError
from controlplane.model.launch import ParallelSettings
from controlplane.model.training_plans import (
    PlanFailures,
    RejectedTraining,
    SearchProof,
    TheoreticalTraining,
    TrainingCandidate,
    TrainingPlan,
    TrainingPlanRequest,
    TrainingPrediction,
    TrainingSize,
)
from tuner.training.planner.answer import Planner, Ranked, TrainingAnswer
from tuner.training.planner.asked import Asked, training_pool
from tuner.training.planner.beyond import Size, beyond, check_beside, sizes
from tuner.training.planner.exports import case_of, launch_plan
from tuner.training.planner.goodput import Failures, after_loss, failures_of, under_failures
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.search import Snapshot

_POOL_FIELDS = {
    "gpu": "accelerator", "gpus": "free", "gpus_per_node": "per_node", "nic": "nic", "nics_per_node": "nics_per_node",
}  # fmt: skip


class TrainingDesk:
    """Fulfils `TrainingPlanner`."""

    def __init__(self, planner: Planner | None = None) -> None:
        self._planner = Planner() if planner is None else planner

    def plan(
        self, request: TrainingPlanRequest, *, progress: Callable[[str, float], None] | None = None
    ) -> TrainingPlan:
        """See `TrainingPlanner`."""
        started = time.monotonic()
        most = 1

        def tell(at: Snapshot) -> None:
            nonlocal most
            most = max(most, at.cells_left)
            if progress is not None:
                progress(_standing(at), 1.0 - at.cells_left / most)

        if progress is not None:
            progress("reading the space", 0.0)
        try:
            question = asked_of(request).question()
            check_beside(question, theoretical=request.theoretical, sizes=request.sizes)
            failing = None if request.failures is None else failures_of(request.failures)
            answer = self._planner.plan(question, top=request.top, progress=tell, limit_s=request.limit_s)
            faster = None
            if request.theoretical:
                faster = beyond(self._planner, question, answer, top=request.top, limit_s=request.limit_s)
            others = sizes(self._planner, question, answer, limit_s=request.limit_s) if request.sizes else None
            lost = None if failing is None else self._failures(question, answer, failing, request.limit_s)
        except TrimtabError as error:
            error.field = None if error.field is None else in_request(error.field)
            raise
        return document(answer, request, time.monotonic() - started).model_copy(
            update={
                "theoretical": None if faster is None else [_theoretical(item) for item in faster.plans],
                "sizes": None if others is None else [_size(item) for item in others],
                "failures": lost,
            }
        )

    def _failures(
        self, question: PlanQuestion, answer: TrainingAnswer, failing: Failures, limit_s: float
    ) -> PlanFailures:
        best = answer.best[0]
        said = under_failures(answer, best, failing, self._planner.constants)
        return PlanFailures.model_validate(
            {**said, "after_loss": after_loss(self._planner, question, best, limit_s=limit_s)}
        )


def asked_of(request: TrainingPlanRequest) -> Asked:
    """The request in the command line's words."""
    fix = [f"{_snake(name)}={','.join(map(_word, values))}" for name, values in request.fixed.items()]
    return Asked(
        model=request.model, pools=tuple(training_pool(pool.model_dump()) for pool in request.pools), seq=request.seq,
        global_batch=request.global_batch, precision=request.precision, framework=request.framework, fix=tuple(fix),
    )  # fmt: skip


def document(answer: TrainingAnswer, request: TrainingPlanRequest, elapsed_s: float) -> TrainingPlan:
    """The answer as the API and the operator read it."""
    proof = answer.proof
    assert proof.incumbent_s is not None
    assert proof.bound_s is not None
    return TrainingPlan(
        request=request,
        framework=answer.framework,
        best=[_candidate(answer, item) for item in answer.best],
        front=[_candidate(answer, item) for item in answer.front],
        why_not=[
            RejectedTraining(
                plan=ParallelSettings.of(item.plan), iteration_s=item.iteration_s, message=item.message,
                over_bytes=item.over_bytes, stage=item.stage, slower=item.slower, term=item.term, term_s=item.term_s,
            )
            for item in answer.why_not
        ],
        proof=SearchProof(
            incumbent_s=proof.incumbent_s, bound_s=proof.bound_s, gap=proof.gap or 0.0,
            complete=proof.cells_left == 0, plans_costed=answer.plans_costed,
        ),
        elapsed_s=elapsed_s,
    )  # fmt: skip


def in_request(field: str) -> str:
    """A field of the question as the request calls it: cluster.gpu is pools[0].accelerator."""
    head, dot, rest = field.partition(".")
    head = {"cluster": "pools[0]", "fix": "fixed"}.get(head, head.replace("cluster[", "pools["))
    if head.startswith("pools"):
        rest = _POOL_FIELDS.get(rest, rest)
    if not dot and head in _POOL_FIELDS:
        return f"pools[0].{_POOL_FIELDS[head]}"
    return to_camel(head) + dot + to_camel(rest)


def _candidate(answer: TrainingAnswer, item: Ranked) -> TrainingCandidate:
    plan = launch_plan(case_of(answer, item), item.plan)
    return TrainingCandidate(plan=plan, prediction=_prediction(item), terms_s=item.terms_s)


def _prediction(item: Ranked) -> TrainingPrediction:
    known = TrainingPrediction.model_fields
    return TrainingPrediction(**{name: value for name, value in item.predicted.items() if name in known})


def _theoretical(item: Ranked) -> TheoreticalTraining:
    return TheoreticalTraining(plan=ParallelSettings.of(item.plan), prediction=_prediction(item))


def _size(size: Size) -> TrainingSize:
    if size.best is None:
        return TrainingSize(accelerators=size.accelerators, on_front=False, message=size.message)
    return TrainingSize(
        accelerators=size.accelerators, on_front=size.on_front, plan=ParallelSettings.of(size.best.plan),
        prediction=_prediction(size.best),
    )  # fmt: skip


def _snake(name: str) -> str:
    """microBatch as micro_batch."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _word(value: bool | int | str) -> str:
    return str(value).lower()


def _standing(at: Snapshot) -> str:
    if at.incumbent_s is None:
        return "no plan that fits yet"
    return f"{at.incumbent_s:.3g} s found, at least {at.bound_s:.3g} s"
