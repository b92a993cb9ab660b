"""`plan()`: from a planning question to ranked deployments with reasons."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from controlplane.catalog import Catalog, load
from controlplane.model.errors import TrimtabError, Unsupported
from controlplane.model.plans import PlanRequest, ServingPlan
from tuner.serving.planner import answer
from tuner.serving.planner.checks import check
from tuner.serving.planner.effort import best_effort
from tuner.serving.planner.evaluator import Evaluator
from tuner.serving.planner.installation import Installation
from tuner.serving.planner.lineup import line_up
from tuner.serving.planner.load import Draws, draw
from tuner.serving.planner.pieces import Pieces, Progress
from tuner.serving.planner.reasons import nearness
from tuner.serving.planner.search import Found, search
from tuner.serving.planner.shape import Shape
from tuner.serving.planner.space import Loss, shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """The planner of one installation. Fills the port `ServingPlanner`: the same request gives the same plan."""

    installation: Installation = field(default_factory=Installation)
    pieces: Pieces | None = None  # None: the real predictor
    catalog: Catalog = field(default_factory=load)

    def plan(self, request: PlanRequest, *, progress: Progress | None = None) -> ServingPlan:
        """Raises UnknownName, InvalidSpec, or Unsupported where no deployment can be run at all. Where some can but none
        keeps the promise, `best` is empty and the first of `why_not` is the best effort (reason BestEffort)."""
        started, cpu = time.perf_counter(), time.process_time()
        model = check(request, self.catalog, self.installation)
        pieces = self._pieces()
        if progress is not None:
            progress("drawing the traffic", 0.0)
        draws = self._draws(request)
        evaluator = Evaluator(
            request=request,
            draws=draws,
            pieces=pieces,
            longest_tokens=int((draws.input_tokens + draws.output_tokens).max()),
        )
        possible, losses = shapes(request, self.catalog, self.installation)
        fitting, short = _fitting(possible, evaluator)
        losses += short
        if not fitting:
            raise _nothing_fits(model.id, losses)
        if progress is not None:
            progress(f"bounding {len(fitting)} shapes", 0.02)
        candidates = line_up(fitting, evaluator, self.installation)
        found = search(candidates, request.top, progress)
        why_not = answer.why_not_of(found, losses, request)
        if not found.done:
            effort = best_effort(found, evaluator)
            why_not = ([effort] if effort is not None else []) + why_not[: answer.WHY_NOT - 1]
        return ServingPlan(
            request=request,
            best=answer.best_of(found, request, _asked(evaluator)),
            advisory=answer.advisory_of(found),
            why_not=why_not,
            pareto=answer.pareto_of(found),
            weighed=len(candidates) + len(losses),
            replayed=_replayed(found),
            elapsed_s=time.perf_counter() - started,
            cpu_s=time.process_time() - cpu,
        )

    def _pieces(self) -> Pieces:
        if self.pieces is not None:
            return self.pieces
        from tuner.serving.planner.standard import StandardPieces  # noqa: PLC0415 - the replay's kernel: 0.3 s

        return StandardPieces(router=self.installation.router)

    def _draws(self, request: PlanRequest) -> Draws:
        if request.workload.arrivals != "trace":
            return draw(request.workload, request.seed)
        from tuner.serving.planner.traces import draws_of_trace  # noqa: PLC0415 - only where there is one

        return draws_of_trace(request, self.catalog)


def plan(
    request: PlanRequest, *, installation: Installation | None = None, progress: Progress | None = None
) -> ServingPlan:
    """One question to the planner of an installation (the default one when None)."""
    return Planner(installation=installation or Installation()).plan(request, progress=progress)


def _fitting(possible: list[Shape], evaluator: Evaluator) -> tuple[list[Shape], list[Loss]]:
    """Shapes whose weights and longest request fit, and the rest with the bytes they are short of."""
    fitting: list[Shape] = []
    losses: list[Loss] = []
    for shape in possible:
        where = {"label": shape.label, "pool": shape.pool.name, "shape": shape}
        try:
            room = evaluator.room(shape)
        except TrimtabError as error:
            losses.append(Loss(reason="NoStepTimes", message=str(error), **where))  # type: ignore[arg-type]
            continue
        if room.short_bytes > 0:
            near = -room.short_bytes / max(room.weight_bytes, 1)
            losses.append(Loss(reason="MemoryShort", message=room.message, nearness=near, **where))  # type: ignore[arg-type]
        else:
            fitting.append(shape)
    return fitting, losses


def _nothing_fits(model: str, losses: list[Loss]) -> Unsupported:
    ordered = sorted(losses, key=lambda one: (nearness(one.reason), -one.nearness, one.label))
    nearest = ordered[0]
    hints = {
        "MemoryShort": "give a pool more accelerators, allow a smaller weight format, or plan a smaller model",
        "PoolTooSmall": "free more accelerators in one pool",
        "EngineNotOnAccelerator": "allow another engine, or give a pool of another accelerator",
    }
    return Unsupported(
        f"no deployment of {model} fits these pools; the nearest, {nearest.label}: {nearest.message}",
        field="pools",
        value=nearest.pool,
        hint=hints.get(nearest.reason, "give other pools, or allow more engines"),
        code=nearest.reason,
    )


def _asked(evaluator: Evaluator) -> str:
    return f"{evaluator.asked:.4g} {evaluator.load_unit}"


def _replayed(found: Found) -> int:
    everyone = [*found.done, *found.advisory, *found.open, *found.lost]
    return sum(candidate.replayed for candidate in everyone)
