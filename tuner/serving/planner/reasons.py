"""Why a candidate won, and the first thing the others lose on: a stable word and a sentence with the numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.model.choice import Slo
from controlplane.model.plans import Objective, Prediction
from tuner.serving.planner.candidate import Candidate
from tuner.serving.planner.pieces import Deployment
from tuner.serving.planner.static import limits

_PER = {
    "goodput-per-accelerator": "accelerator",
    "goodput-per-watt": "watt",
    "goodput-per-cost": "currency unit an hour",
}
# How near a loser was, by the word it lost with: first in the list of the next best.
_ORDER = (
    "PoolTooSmall",
    "SloUnreachable",
    "BudgetTooSmall",
    "NoStepTimes",
    "ObjectiveUnknown",
    "MemoryShort",
    "PrecisionNotOffered",
    "DoesNotDivide",
    "EngineNotOnAccelerator",
    "NotAllowed",
)


def score_unit(objective: Objective, load_unit: str) -> str:
    """`requests/s per accelerator`, or clients where loads are clients."""
    return f"{load_unit} per {_PER[objective]}"


def nearness(reason: str) -> int:
    """Rank of a losing reason: smaller is nearer to a deployment that works."""
    return _ORDER.index(reason) if reason in _ORDER else len(_ORDER)


def why_won(best: Candidate, others: Sequence[Candidate], slo: Slo, asked: str) -> tuple[str, str]:
    """Word and sentence for the winner, beside the runner-up."""
    assert best.deployment is not None and best.prediction is not None
    parts = [f"{_accelerators(best)} for {asked} with {_margins(best.prediction, slo)}{_headroom(best)}"]
    if best.redrawn is not None and best.redrawn.replays > 1 and best.redrawn.spread:
        parts.append(f"kept in each of {best.redrawn.replays} draws of this traffic: {best.redrawn.spread}")
    if others:
        parts.append(f"runner-up: {others[0].label}, {_compared(others[0], best)}")
    return "Chosen", "; ".join(parts)


def why_ranked(candidate: Candidate, best: Candidate) -> tuple[str, str]:
    """Word and sentence for a deployment that keeps the promise and ranks behind the winner."""
    behind = best.rank[0] - candidate.rank[0] > 1e-9 * best.rank[0]
    return ("LowerScore" if behind else "LessHeadroom"), _compared(candidate, best)


def why_open(candidate: Candidate, best: Candidate, objective: Objective) -> tuple[str, str]:
    """Word and sentence for one that was set aside: this installation cannot run it, or its bound cannot win any more."""
    unit = score_unit(objective, candidate.evaluator.load_unit)
    basis = "its roofline" if candidate.state == "sketched" else "its step table"
    if candidate.replayed:
        basis = "its replays"
    if candidate.advisory is not None:
        return "NotDeployableHere", f"{candidate.advisory}{_would_be(candidate, best, basis)}"
    if is_below(candidate, best):
        return "LowerScore", _below(candidate, best, unit, basis)
    headroom = 1 - candidate.rank[1] / best.rank[1] if best.rank[1] > 0 else 0.0
    if headroom > 0.005:
        return "LessHeadroom", f"as good at this load, but carries about {headroom:.0%} less at most, by {basis}"
    return "NotBetter", f"no better than the winner by {basis}; equals are taken in order of name"


def why_unsearched(candidate: Candidate, best: Candidate | None, objective: Objective) -> tuple[str, str]:
    """Word and sentence for one that was left because too many step tables had been asked for. One whose bound is below
    the winner needs none to be behind it."""
    unit = score_unit(objective, candidate.evaluator.load_unit)
    if candidate.advisory is not None:
        gain = "" if best is None else _would_be(candidate, best, "its roofline")
        return "NotDeployableHere", f"{candidate.advisory}{gain}; its step table was not asked for"
    if best is not None and is_below(candidate, best):
        return "LowerScore", _below(candidate, best, unit, "its roofline")
    said = f"at most {candidate.rank[0]:.3g} {unit} by its roofline"
    if best is not None and best.rank[0] > 0:
        said += f", the winner has {best.rank[0]:.3g}"
    return "NotSearched", f"{said}; its step table was not asked for"


def why_lost(candidate: Candidate) -> tuple[str, str]:
    """Word and sentence for one that cannot keep the promise. What cannot be run here says so first."""
    if candidate.advisory is None:
        return candidate.reason, candidate.message
    return "NotDeployableHere", f"{candidate.advisory}; besides: {candidate.message}"


def is_below(candidate: Candidate, best: Candidate) -> bool:
    """Whether the bound of one that was not finished is worse for the objective than a finished one's score."""
    return candidate.rank[0] < best.rank[0] * (1 - 1e-9)


def not_searched(left: Sequence[Candidate], ranked: Sequence[Candidate], most: int, tables: int) -> str | None:
    """What a search that ended early leaves open; None where it left nothing that could stand among the ranked. `most`:
    how many were to be ranked."""
    full = len(ranked) >= most
    left = [item for item in left if not full or not is_below(item, ranked[-1])]
    if not left:
        return None
    best = ranked[0] if ranked else None
    said = (
        f"{len(left)} deployments were not searched: {tables} step tables had been asked for, enough for one question"
    )
    if best is None or best.rank[0] <= 0:
        return f"{said}; allow fewer pools or engines, or loosen the SLO, to have them searched"
    gain = max(candidate.rank[0] for candidate in left) / best.rank[0] - 1
    way_out = "allow fewer pools or engines to have them searched"
    if gain <= 1e-9:
        return f"{said}; by their bounds none is better for the objective than the winner"
    return f"{said}; by their bounds the best of them could be up to {gain:.0%} better for the objective; {way_out}"


def _below(candidate: Candidate, best: Candidate, unit: str, basis: str) -> str:
    short = 1 - candidate.rank[0] / best.rank[0]
    return f"at most {candidate.rank[0]:.3g} {unit} by {basis}, {short:.0%} below {best.rank[0]:.3g}"


def _would_be(candidate: Candidate, best: Candidate, basis: str) -> str:
    """How an installation that could run it would rate it."""
    if best.rank[0] <= 0:
        return ""
    gain = candidate.rank[0] / best.rank[0] - 1
    if abs(gain) <= 1e-9:
        return f"; for the objective it would be as good as the winner at best, by {basis}"
    said = f"up to {gain:.0%} better" if gain > 0 else f"at least {-gain:.0%} worse"
    return f"; for the objective it would be {said}, by {basis}"


def _compared(candidate: Candidate, best: Candidate) -> str:
    """Numbers of one finished candidate against the winner's."""
    assert candidate.deployment is not None and best.deployment is not None
    theirs = best.deployment.accelerators
    if candidate.rank[0] < best.rank[0] * (1 - 1e-9):
        return f"{_units(candidate)} instead of {theirs}, {1 - candidate.rank[0] / best.rank[0]:.0%} less for the objective"
    if candidate.capacity is not None and best.capacity:
        less = 1 - candidate.capacity / best.capacity
        if abs(less) >= 0.005:
            word = "less" if less > 0 else "more"
            return f"as good at this load, carries at most {candidate.capacity:.3g}, {abs(less):.0%} {word}"
    return "as good, behind in order of name"


def _accelerators(candidate: Candidate) -> str:
    return f"{_units(candidate)} ({candidate.label})"


def _units(candidate: Candidate) -> str:
    assert candidate.deployment is not None
    return units_of(candidate.deployment)


def units_of(deployment: Deployment) -> str:
    """`8 accelerators`, or cores where all pools are CPUs."""
    groups, count = deployment.groups, deployment.accelerators
    kind = "core" if all(group.unit.shape.accelerator.kind == "cpu" for group in groups) else "accelerator"
    return f"{count} {kind}{'' if count == 1 else 's'}"


def _margins(prediction: Prediction, slo: Slo) -> str:
    said = [
        f"{name} {point} {getattr(values, point):,.0f} of {limit:g} ms"
        for name, target, values in (
            ("TTFT", slo.ttft_ms, prediction.ttft_ms),
            ("TPOT", slo.tpot_ms, prediction.tpot_ms),
        )
        for point, limit in limits(target)
        if getattr(values, point) is not None
    ]
    return ", ".join(said) if said else "no latency promised"


def _headroom(candidate: Candidate) -> str:
    return "" if candidate.capacity is None else f", and at most {candidate.capacity:.3g}"
