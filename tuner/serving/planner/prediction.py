"""A replay's result in the shared words."""

from __future__ import annotations

import numpy as np

from controlplane.model.plans import PlanRequest, Prediction, Provenance, Quantiles
from tuner.serving.planner.pieces import Deployment
from tuner.serving.replay.result import ReplayResult
from tuner.serving.step.table import Floats


def prediction_of(result: ReplayResult, deployment: Deployment, request: PlanRequest) -> Prediction:
    meeting = result.meeting(request.slo)
    return Prediction(
        ttft_ms=quantiles(result.ttft_ms, (1.0, 1.0)),
        tpot_ms=quantiles(result.tpot_ms, (1.0, 1.0)),
        e2e_ms=quantiles(result.e2e_ms, (1.0, 1.0)),
        goodput_per_second=result.goodput_per_s(request.slo),
        slo_attained=float(meeting.mean()),
        tokens_per_second_per_accelerator=result.output_tokens_per_s / deployment.accelerators,
        kv_fraction_peak=result.kv_fraction_peak or 0.0,
        provenance=Provenance(tier="roofline", source=""),
    )


def quantiles(values: Floats, band: tuple[float, float]) -> Quantiles:
    known = values[~np.isnan(values)]
    if not len(known):
        return Quantiles(mean=0.0, p50=0.0, p90=0.0, p95=0.0, p99=0.0, lo=0.0, hi=0.0)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(known, (50, 90, 95, 99)))
    mean = float(known.mean())
    return Quantiles(mean=mean, p50=p50, p90=p90, p95=p95, p99=p99, lo=mean * band[0], hi=mean * band[1])
