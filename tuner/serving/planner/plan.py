"""`plan()`: from a planning question to ranked deployments with reasons."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from controlplane.catalog import Catalog, load
from controlplane.model.errors import TrimtabError, Unsupported
from controlplane.model.plans import CalibrationUsed, PlanRequest, ServingPlan
from tuner.serving.calibration.parameters import Calibration, digest_of, load_calibration
from tuner.serving.planner import answer
from tuner.serving.planner.checks import check
from tuner.serving.planner.effort import best_effort
from tuner.serving.planner.evaluator import Evaluator
from tuner.serving.planner.idle_network import idle_network
from tuner.serving.planner.installation import Installation
from tuner.serving.planner.lineup import line_up
from tuner.serving.planner.load import Draws, draw
from tuner.serving.planner.pieces import Pieces, Progress
from tuner.serving.planner.reasons import nearness, not_searched
from tuner.serving.planner.search import Found, search
from tuner.serving.planner.shape import Shape
from tuner.serving.planner.space import Loss, shapes
from tuner.serving.planner.tracefile import draws_of_trace
from tuner.serving.resolve import find_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """The planner of one installation. Fills the port `ServingPlanner`: the same request gives the same plan."""

    installation: Installation = field(default_factory=Installation)
    pieces: Pieces | None = None  # None: the real predictor
    calibration: Calibration | None = None  # of the real predictor; None: the packaged one
    catalog: Catalog = field(default_factory=load)

    def plan(self, request: PlanRequest, *, progress: Progress | None = None) -> ServingPlan:
        """Raises UnknownName, InvalidSpec, or Unsupported where no deployment can be run at all. Where some can but none
        keeps the promise, `best` is empty and the first of `why_not` is the best effort (reason BestEffort)."""
        started, cpu = time.perf_counter(), time.process_time()
        model = check(request, self.catalog, self.installation)
        if progress is not None:
            progress("drawing the traffic", 0.0)
        draws = self._draws(request)
        pieces = self._pieces(request, draws)
        evaluator = Evaluator(
            request=request,
            draws=draws,
            pieces=pieces,
            longest_tokens=int((draws.input_tokens + draws.output_tokens).max()),
        )
        fitting, losses = _fitting(*shapes(request, self.catalog, self.installation), evaluator)
        if not fitting:
            raise _nothing_fits(model.id, losses)
        if progress is not None:
            progress(f"bounding {len(fitting)} shapes", 0.02)
        candidates = line_up(fitting, evaluator, self.installation)
        found = search(candidates, request.top, progress)
        effort = None if found.done else best_effort(found, evaluator)
        best, advisory = answer.best_of(found, request, _asked(evaluator)), answer.advisory_of(found)
        remarks = (_unsearched(found, evaluator), idle_network(request, [*best, *advisory], self.catalog))
        return ServingPlan(
            request=request,
            best=best,
            advisory=advisory,
            why_not=answer.why_not_of(found, losses, request, effort),
            pareto=answer.pareto_of(found),
            weighed=len(candidates) + len(losses),
            replayed=_replayed(found),
            elapsed_s=time.perf_counter() - started,
            cpu_s=time.process_time() - cpu,
            calibration=self._used(),
            remarks=[said for said in remarks if said is not None],
        )

    def _used(self) -> CalibrationUsed | None:
        if self.pieces is not None:
            return None
        chosen = load_calibration() if self.calibration is None else self.calibration
        source: Literal["shipped", "given"] = "shipped" if self.calibration is None else "given"
        return CalibrationUsed(name=chosen.name, digest=digest_of(chosen), source=source)

    def _pieces(self, request: PlanRequest, draws: Draws) -> Pieces:
        if self.pieces is not None:
            return self.pieces
        from tuner.serving.planner.standard import StandardPieces  # noqa: PLC0415 - tests bring their own

        return StandardPieces(
            router=request.routing.picks_by, slo=request.slo, draws=draws, calibration=self.calibration
        )

    def _draws(self, request: PlanRequest) -> Draws:
        if request.workload.arrivals != "trace":
            return draw(request.workload, request.seed, in_turns=_in_turns(request))
        return draws_of_trace(request, find_model(self.catalog, request.model), in_turns=_in_turns(request))


def plan(
    request: PlanRequest, *, installation: Installation | None = None, progress: Progress | None = None
) -> ServingPlan:
    """One question to the planner of an installation (the default one when None)."""
    return Planner(installation=installation or Installation()).plan(request, progress=progress)


def _in_turns(request: PlanRequest) -> bool:
    return request.routing.picks_by != "random"


def _fitting(possible: Sequence[Shape], losses: Sequence[Loss], evaluator: Evaluator) -> tuple[list[Shape], list[Loss]]:
    """Shapes whose weights and longest request fit, and all losses: short memory comes before a pool too small."""
    fitting: list[Shape] = []
    lost: list[Loss] = []
    for shape in possible:
        said = _memory_loss(shape, evaluator)
        if said is None:
            fitting.append(shape)
        else:
            lost.append(said)
    for loss in losses:
        small = loss.reason == "PoolTooSmall" and loss.shape is not None
        lost.append((small and loss.shape is not None and _memory_loss(loss.shape, evaluator)) or loss)
    return fitting, lost


def _memory_loss(shape: Shape, evaluator: Evaluator) -> Loss | None:
    """The loss of a shape whose memory is short, or unknown to the models; None when it fits."""
    try:
        room = evaluator.room(shape)
    except TrimtabError as error:
        return Loss(
            label=shape.label,
            pool=shape.pool.name,
            shape=shape,
            engine=shape.engine.id,
            reason="NoStepTimes",
            message=str(error),
        )
    if room.short_bytes <= 0:
        return None
    return Loss(
        label=shape.label,
        pool=shape.pool.name,
        shape=shape,
        engine=shape.engine.id,
        reason="MemoryShort",
        message=room.message,
        nearness=-room.short_bytes / max(room.weight_bytes, 1),
    )


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


def _unsearched(found: Found, evaluator: Evaluator) -> str | None:
    return not_searched(found.unsearched, found.done, evaluator.request.top, evaluator.tables)


def _replayed(found: Found) -> int:
    everyone = [*found.done, *found.advisory, *found.open, *found.unsearched, *found.lost]
    return sum(candidate.replayed for candidate in everyone)
