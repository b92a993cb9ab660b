"""A serving plan as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from controlplane.cli.answer_table import aligned
from tuner.serving.planner.reasons import score_unit
from tuner.serving.planner.whatif import label

if TYPE_CHECKING:
    from controlplane.model.plans import Prediction, Quantiles, ServingCandidate, ServingPlan
    from tuner.serving.planner.daily import DailyPlan
    from tuner.serving.planner.whatif import Difference

_POINTS = ("p50", "p90", "p95", "p99")
_HEADER = (
    "deployment", "accelerators", "score", "at most", "TTFT", "TPOT", "attained", "tok/s/acc", "GB/acc", "power W", "J/token",
    "cost/Mtok", "tier",
)  # fmt: skip


def plan_table(plan: ServingPlan) -> str:
    """The ranking, why the winner won, why the others lost, what else could be had."""
    lines: list[str] = []
    slo = plan.request.slo
    points = _points(plan)
    if plan.best:
        lines += aligned([_HEADER, *(_row(candidate, points) for candidate in plan.best)])
        lines += [
            f"score: {_score(plan)}; at most: load within the SLO; TTFT, TPOT: {', '.join(points)} in "
            f"ms, in brackets {points[-1]} scaled by the 90 % interval of the mean; attained: share of requests within the "
            "SLO; GB/acc: memory of one accelerator; J/token: energy of all for one output token"
        ]
        lines += ["", f"why: {plan.best[0].message}"]
        lines += _shape_lines(plan.best[0])
        winner = plan.best[0].prediction
        lines += [f"warning: {warning}" for warning in (winner.warnings if winner else [])]
    else:
        promised = "" if slo.ttft_ms or slo.tpot_ms else " (none was given)"
        lines += [f"No deployment on these pools keeps the promise{promised}."]
    lines += _section("advisory: this installation cannot run them", plan.advisory)
    lines += _section("why not", plan.why_not)
    lines += _section("load carried within the SLO, by size", plan.pareto, reasons=False)
    lines += ["", f"{plan.weighed} weighed, {plan.replayed} replayed, {plan.cpu_s:.2f} CPU s"]
    lines += [f"note: {remark}" for remark in plan.remarks]
    routing = plan.request.routing
    lines.append(f"requests reach replicas by {routing.router}: {routing.picks_by}")
    used = plan.calibration
    if used is not None and used.source != "shipped":
        lines.append(f"calibration: {used.name} ({used.source}, {used.digest})")
    return "\n".join(lines)


def what_if_text(found: Difference) -> str:
    """One change and what it makes."""
    lines = ["", f"what if {found.change}: {found.message}"]
    for name, unit, pair in (
        ("power", "W", found.power_w),
        ("cost per million output tokens", "", found.cost_per_million_output_tokens),
    ):
        before, after = pair
        if before is not None and after is not None:
            lines.append(f"  {name}: {before:,.4g} to {after:,.4g} {unit}".rstrip())
    return "\n".join(lines)


def daily_text(found: DailyPlan) -> str:
    """Replicas over the day."""
    rows: list[Sequence[str]] = [("from s", "load /s", "replicas", "accelerators")]
    rows += [
        (f"{step.start_s:,.0f}", f"{step.rate_per_s:.3g}", str(step.replicas), str(step.accelerators))
        for step in found.steps
    ]
    return "\n".join(["", *aligned(rows), found.message])


def _score(plan: ServingPlan) -> str:
    clients = plan.request.workload.arrivals == "closed"
    return score_unit(plan.request.objective, "clients" if clients else "requests/s")


def _row(candidate: ServingCandidate, points: Sequence[str]) -> Sequence[str]:
    prediction = candidate.prediction
    score = "-" if candidate.score is None else f"{candidate.score:.4g}"
    if prediction is None:
        return (label(candidate), str(candidate.accelerators), score, *("-" for _ in _HEADER[3:]))
    return (
        label(candidate),
        str(candidate.accelerators),
        score,
        _known(candidate.capacity, "{:.3g}"),
        _latency(prediction.ttft_ms, points),
        _latency(prediction.tpot_ms, points),
        f"{prediction.slo_attained:.1%}",
        f"{prediction.tokens_per_second_per_accelerator:,.0f}",
        _known(_gigabytes(prediction.memory_bytes_per_accelerator), "{:,.0f}"),
        _known(prediction.power_w, "{:,.0f}"),
        _known(prediction.joules_per_output_token, "{:.3g}"),
        _cost(prediction),
        prediction.provenance.tier,
    )


def _latency(values: Quantiles, points: Sequence[str]) -> str:
    """Percentiles, with the interval that the mean's has at the last of them; `-` where no request has one."""
    if values.mean is None or values.lo is None or values.hi is None or not values.mean:
        return "-"
    said = [f"{getattr(values, point):,.0f}" for point in points]
    last = float(getattr(values, points[-1]))
    return " ".join([*said, f"[{last * values.lo / values.mean:,.0f} {last * values.hi / values.mean:,.0f}]"])


def _points(plan: ServingPlan) -> list[str]:
    """The percentiles somebody promised, else the median and the 95th."""
    targets = [target for target in (plan.request.slo.ttft_ms, plan.request.slo.tpot_ms) if target is not None]
    named = [point for point in _POINTS if any(getattr(target, point) is not None for target in targets)]
    return named or ["p50", "p95"]


def _cost(prediction: Prediction) -> str:
    value = prediction.cost_per_million_output_tokens
    return "unknown" if value is None else f"{value:,.2f} {prediction.currency or ''}".rstrip()


def _gigabytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / 1e9


def _known(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


def _shape_lines(candidate: ServingCandidate) -> list[str]:
    out = []
    for role in candidate.roles:
        knobs = ", ".join(f"{name} {value}" for name, value in role.choice.knobs.items())
        out.append(f"settings on {role.pool}: {knobs}")
    if candidate.prediction is not None:
        out.append(f"source: {candidate.prediction.provenance.source}")
    return out


def _section(title: str, candidates: Sequence[ServingCandidate], *, reasons: bool = True) -> list[str]:
    if not candidates:
        return []
    return [
        "",
        f"{title}:",
        *(f"  {item.reason}: {item.message}" if reasons else f"  {item.message}" for item in candidates),
    ]
