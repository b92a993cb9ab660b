"""A deployment's replay in the shared words: percentiles with intervals, energy, cost, where the numbers come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.model.choice import Slo
from controlplane.model.plans import PlanRequest, Prediction, Quantiles
from tuner.serving.answer import NO_TPOT, merged, table_failures
from tuner.serving.calibration.apply import Calibrated, of_roles
from tuner.serving.calibration.parameters import METRICS, Metric
from tuner.serving.cost import cost
from tuner.serving.energy import energy
from tuner.serving.planner.pieces import Deployment, Group
from tuner.serving.planner.static import limits
from tuner.serving.planner.verdict import growing
from tuner.serving.replay.result import ReplayResult, ReplicaUse
from tuner.serving.step.table import Floats

Band = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Offered:
    """The load of an open loop, whatever is answered of it."""

    requests_per_s: float
    tokens_per_request: float


_NO_PROMISE = (
    "no latency was promised: deployments are ranked by throughput alone; promise one (ttftMs, tpotMs; on the command "
    "line --ttft-p95, --tpot-p95) to have it kept"
)


def prediction_of(
    result: ReplayResult,
    deployment: Deployment,
    engines: Sequence[Calibrated],
    request: PlanRequest,
    memory_bytes: int | None,
    offered: Offered | None = None,
) -> Prediction:
    """`engines` belong to the deployment's groups, in order; replicas in the result follow the groups, too. `offered`: an
    open loop's load; None for clients, who only send what is answered."""
    ttft, tpot, e2e = (_band(deployment, engines, metric) for metric in METRICS)
    ttft_ms, tpot_ms = quantiles(result.ttft_ms, ttft), quantiles(result.tpot_ms, tpot)
    requests_per_s, tokens_per_s = _rates(result, offered)
    meeting = float(result.meeting(request.slo).mean())
    power_w, joules = _energy(result, deployment)
    priced = cost(_by_pool(deployment), request.pools, output_tokens_per_second=tokens_per_s)
    warnings = _interval_warnings(request.slo, {"TTFT": (ttft_ms, ttft), "TPOT": (tpot_ms, tpot)})
    if not limits(request.slo.ttft_ms) and not limits(request.slo.tpot_ms):
        warnings.append(_NO_PROMISE)
    if (result.osl <= 1).all():
        warnings.append(NO_TPOT)
    warnings += table_failures(engine.table.provenance for engine in engines)
    if result.refused.any():
        warnings.append(f"{int(result.refused.sum())} of {len(result.isl)} requests fit no replica and were refused")
    return Prediction(
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        e2e_ms=quantiles(result.e2e_ms, e2e),
        goodput_per_second=requests_per_s * meeting,
        slo_attained=meeting,
        tokens_per_second_per_accelerator=tokens_per_s / deployment.accelerators,
        kv_fraction_peak=result.kv_fraction_peak,
        memory_bytes_per_accelerator=memory_bytes,
        power_w=power_w,
        joules_per_output_token=joules,
        cost_per_million_output_tokens=None if priced is None else priced.per_million_output_tokens,
        currency=None if priced is None else priced.currency,
        provenance=merged(
            [(group.role, engine.table.provenance) for group, engine in zip(deployment.groups, engines, strict=True)]
        ),
        warnings=warnings,
    )


def _rates(result: ReplayResult, offered: Offered | None) -> tuple[float, float]:
    """Requests and output tokens per second. What keeps up with an open loop carries just what is offered: over the replay
    alone the last answers, with nothing arriving any more, would make the slower of two equals the dearer one."""
    keeps_up = not result.refused.any() and growing(result.ttft_ms[~np.isnan(result.ttft_ms)]) is None
    if offered is not None and keeps_up:
        return offered.requests_per_s, offered.requests_per_s * offered.tokens_per_request
    requests = len(result.isl) / result.span_s if result.span_s > 0 else 0.0
    return requests, result.output_tokens_per_s


def quantiles(values: Floats, band: Band) -> Quantiles:
    """Mean and percentiles of the answered; `band` bounds the true mean over the predicted one."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Quantiles()
    p50, p90, p95, p99 = (float(value) for value in np.percentile(known, (50, 90, 95, 99)))
    mean = float(known.mean())
    return Quantiles(mean=mean, p50=p50, p90=p90, p95=p95, p99=p99, lo=mean * band[0], hi=mean * band[1])


def _band(deployment: Deployment, engines: Sequence[Calibrated], metric: Metric) -> Band:
    bands = [(group.role, engine.interval(metric)) for group, engine in zip(deployment.groups, engines, strict=True)]
    return of_roles(bands, metric) or (1.0, 1.0)


def _interval_warnings(slo: Slo, metrics: Mapping[str, tuple[Quantiles, Band]]) -> list[str]:
    """Where the promise holds for the predicted value but not at the upper end of its interval."""
    out = []
    for name, (values, band) in metrics.items():
        for point, limit in limits(slo.ttft_ms if name == "TTFT" else slo.tpot_ms):
            value = getattr(values, point)
            if value is not None and value <= limit < value * band[1]:
                out.append(
                    f"{name} {point} is predicted at {value:,.0f} ms, and the 90 % interval reaches "
                    f"{value * band[1]:,.0f} ms: above the SLO of {limit:g} ms"
                )
    return out


def _energy(result: ReplayResult, deployment: Deployment) -> tuple[float | None, float | None]:
    """(W, J per output token) of all accelerators; None where one of them is unknown."""
    watts = joules = 0.0
    at = 0
    for group in deployment.groups:
        for use in result.replicas[at : at + group.replicas]:
            found = _of_replica(group, use)
            if found is None:
                return None, None
            watts, joules = watts + found[0], joules + found[1]
        at += group.replicas
    made = float(result.osl[~result.refused].sum())
    return watts, joules / made if made else None


def _of_replica(group: Group, use: ReplicaUse) -> tuple[float, float] | None:
    shape = group.unit.shape
    prompts_s = use.prefill_s + use.mixed_s
    busy_s = prompts_s + use.decode_s
    if shape.accelerator.kind == "cpu" or busy_s + use.idle_s <= 0:
        return None
    with_prompts = use.iterations * (prompts_s / busy_s) if busy_s else 0.0
    found = energy(
        shape.accelerator,
        accelerators=shape.units,
        prefill_s=prompts_s,
        decode_s=use.decode_s,
        idle_s=use.idle_s,
        output_tokens=use.decode_tokens,
        prefill_tokens_per_iteration=max(1.0, use.context_tokens / max(with_prompts, 1.0)),
        decode_sequences=max(1.0, use.decode_tokens / max(use.iterations, 1)),
        cap_w=shape.pool.power_cap_w,
    )
    return None if found is None else (found.power_w, found.joules)


def _by_pool(deployment: Deployment) -> dict[str, int]:
    used: dict[str, int] = {}
    for group in deployment.groups:
        name = group.unit.shape.pool.name
        used[name] = used.get(name, 0) + group.units
    return used
