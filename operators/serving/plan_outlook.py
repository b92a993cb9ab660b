"""The Planned condition in words: the plan in force, or why there is none. Pure."""

from __future__ import annotations

from controlplane.model.auto import PlanStatus
from controlplane.model.errors import TrimtabError
from controlplane.model.plans import CalibrationUsed, Prediction
from operators.serving.plan_request import Asked
from operators.serving.plan_words import shape_text
from operators.serving.reasons import Reason
from operators.serving.snapshot import Outlook

_MESSAGE_MAX = 1_500


def outlook(
    plan: PlanStatus | None,
    failed: TrimtabError | None,
    asked: Asked | None,
    aside: str,
    used: CalibrationUsed | None,
) -> Outlook:
    """`failed`: what the last attempt ended with. `asked`: the question as it is now; None where there is none. `aside`:
    room that is kept for others' plans."""
    stays = "running replicas stay as they are"
    if plan is not None:
        stays = f"the plan of {plan.planned_time.strftime('%Y-%m-%dT%H:%M:%SZ')} stays in force"
    if plan is not None and asked is not None and plan.request_revision == asked.request_revision:
        again = "" if failed is None else f"; weighing it again failed: {failed}"
        unusable = "" if used is None or used.problem is None else f"; the installed calibration: {used.problem}"
        return Outlook(plan, "True", Reason.PLANNED, f"{_summary(plan)}{again}{unusable}"[:_MESSAGE_MAX])
    if failed is not None:
        why = f"{failed}; {aside}" if aside else str(failed)
        return Outlook(plan, "False", Reason.PLAN_FAILED, f"{why}; {stays}"[:_MESSAGE_MAX])
    return Outlook(plan, "False", Reason.PLANNING, f"the planner is at work; {stays}")


def _latencies(prediction: Prediction) -> str:
    """`TTFT p95 350 ms, TPOT p95 28.0 ms (measured; mean TTFT within 150 to 260 ms)`; nothing of what is not known."""
    ttft, tpot = prediction.ttft_ms, prediction.tpot_ms
    said = [] if ttft.p95 is None else [f"TTFT p95 {ttft.p95:.0f} ms"]
    said += [] if tpot.p95 is None else [f"TPOT p95 {tpot.p95:.1f} ms"]
    within = ""
    if ttft.lo is not None and ttft.hi is not None:
        within = f"; mean TTFT within {ttft.lo:.0f} to {ttft.hi:.0f} ms"
    return f"{', '.join(said) or 'no latency'} ({prediction.provenance.tier}{within})"


def _summary(plan: PlanStatus) -> str:
    """The plan in one sentence: what runs, what is expected of it, and what weakens that."""
    best = plan.candidates[0]
    said = shape_text(best)
    if best.prediction is not None:
        said += f"; predicted {_latencies(best.prediction)}"
    said += f"; {best.reason}"
    if best.prediction is not None:
        said += "".join(f"; warning: {warning}" for warning in best.prediction.warnings)
    return said[:_MESSAGE_MAX]
