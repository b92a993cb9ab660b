"""Predictions of a plan beside the engines' own measurements. Pure."""

from collections.abc import Mapping

from controlplane.api.documents import DeploymentOut
from controlplane.api.plan_documents import ObservedLatency, PlanObserved
from controlplane.model.plans import Quantiles
from telemetry.summary import Pooled, pooled
from telemetry.window import Slice

_MS_PER_S = 1_000.0


def observe(deployment: DeploymentOut, engines: Mapping[str, Slice], since_s: float) -> PlanObserved:
    """The plan in force and what `engines` (rows of the span by pod) say about it."""
    status = deployment.status
    said = next((condition for condition in status.conditions if condition.type == "Planned"), None)
    rows = list(engines.values())
    ttft = pooled(rows, "ttft_s")
    tpot = pooled(rows, "tpot_s")
    if tpot.observations is None:
        tpot = pooled(rows, "inter_token_s")
    candidate = status.plan.candidates[0] if status.plan is not None and status.plan.candidates else None
    prediction = None if candidate is None else candidate.prediction
    workload = deployment.spec.workload
    return PlanObserved(
        plan=status.plan,
        reason="NotPlanned" if said is None else said.reason,
        message="" if said is None else said.message,
        since_s=since_s,
        pods=sorted(engines),
        ttft_ms=None if prediction is None else _beside(prediction.ttft_ms, ttft),
        tpot_ms=None if prediction is None else _beside(prediction.tpot_ms, tpot),
        planned_requests_per_s=None if workload is None else workload.rate_per_second,
        requests_per_s=_rate(rows),
    )


def _beside(predicted: Quantiles, seen: Pooled) -> ObservedLatency:
    mean = _ms(seen.mean_s)
    return ObservedLatency(
        predicted=predicted,
        observations=None if seen.observations is None else round(seen.observations),
        mean=mean,
        p50=_ms(seen.quantiles.p50),
        p95=_ms(seen.quantiles.p95),
        mean_in_interval=_within(predicted, mean),
    )


def _within(predicted: Quantiles, mean: float | None) -> bool | None:
    if mean is None or predicted.lo is None or predicted.hi is None:
        return None
    return predicted.lo <= mean <= predicted.hi


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else round(value_s * _MS_PER_S, 3)


def _rate(engines: list[Slice]) -> float | None:
    rates = [rate for rows in engines if (rate := rows.rate_per_s("ttft_s_count")) is not None]
    return round(sum(rates), 4) if rates else None
