"""A planner that invents numbers, for tests of what surrounds a planner. Says so in every text it returns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from controlplane.model.choice import AcceleratorChoice
from controlplane.model.errors import Unsupported
from controlplane.model.plans import (
    PlannablePool,
    PlannedRole,
    PlanRequest,
    Prediction,
    Provenance,
    Quantiles,
    ServingCandidate,
    ServingPlan,
)


class FakePlanner:
    """One candidate of one accelerator for each pool that has one free, dearest score first in the pools' order.

    `options`: `replicas` (1), `scores` by pool (100, 99, ...), `hangS` (sleep), `die` (end the process),
    `greedy` (run out of memory), `error` (raise), `advisory` (a split plan beside), `knobs`, `cpuMillicores`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.requests: list[PlanRequest] = []

    def plan(self, request: PlanRequest, *, progress: Callable[[str, float], None] | None = None) -> ServingPlan:
        options = self._options
        self.requests.append(request)
        for step in range(3):
            if progress is not None:
                progress("inventing numbers (fake planner)", step / 3)
            time.sleep(float(options.get("hangS", 0.0)) / 3)
        if options.get("die"):
            os._exit(3)
        if options.get("greedy"):
            raise MemoryError
        if options.get("error"):
            raise Unsupported(str(options["error"]), field="slo.ttftMs", value=1, limit="more", hint="loosen it")
        scores: Mapping[str, float] = options.get("scores", {})
        usable = [pool for pool in request.pools if pool.free >= int(options.get("replicas", 1))]
        ranked = sorted(
            (self._candidate(request, pool, scores.get(pool.name, 100.0 - index)) for index, pool in enumerate(usable)),
            key=lambda candidate: -(candidate.score or 0.0),
        )
        if not ranked:
            raise Unsupported("nothing fits (fake planner)", field="pools", hint="free accelerators")
        return ServingPlan(
            request=request,
            best=ranked[: request.top],
            advisory=[self._split(ranked[0])] if options.get("advisory") else [],
            why_not=ranked[request.top :],
            pareto=ranked[:1],
            weighed=len(request.pools),
            replayed=len(ranked),
            elapsed_s=0.01,
            cpu_s=0.01,
        )

    def _candidate(self, request: PlanRequest, pool: PlannablePool, score: float) -> ServingCandidate:
        cpu = pool.accelerator.startswith("cpu-")
        engine = (request.allowed.engines or (["openvino"] if cpu else ["vllm"]))[0]
        choice = AcceleratorChoice(
            accelerator=pool.accelerator,
            pools=[pool.name],
            engine="openvino" if cpu else engine,
            knobs=self._options.get("knobs", {}),
            cpu_millicores=int(self._options.get("cpuMillicores", 500)) if cpu else None,
        )
        replicas = int(self._options.get("replicas", 1))
        return ServingCandidate(
            roles=[PlannedRole(role="aggregated", pool=pool.name, replicas=replicas, choice=choice)],
            accelerators=replicas,
            score=score,
            prediction=invented_prediction(),
            deployable=True,
            reason="invented by the fake planner",
            message=f"score {score:g}",
        )

    def _split(self, like: ServingCandidate) -> ServingCandidate:
        (role,) = like.roles
        roles = [role.model_copy(update={"role": name}) for name in ("prefill", "decode")]
        return like.model_copy(update={"roles": roles, "deployable": False, "reason": "advisory (fake planner)"})


def invented_prediction() -> Prediction:
    """Numbers of nowhere."""
    ttft = Quantiles(mean=200.0, p50=180.0, p90=300.0, p95=350.0, p99=500.0, lo=150.0, hi=260.0)
    tpot = Quantiles(mean=20.0, p50=19.0, p90=25.0, p95=28.0, p99=40.0, lo=15.0, hi=26.0)
    return Prediction(
        ttft_ms=ttft,
        tpot_ms=tpot,
        e2e_ms=ttft,
        goodput_per_second=2.0,
        slo_attained=1.0,
        tokens_per_second_per_accelerator=500.0,
        kv_fraction_peak=0.5,
        provenance=Provenance(tier="roofline", source="fake planner"),
    )


def fake_planner(options: Mapping[str, Any]) -> FakePlanner:
    """Factory for `PlannerProcess`: `controlplane.testing.fake_planner:fake_planner`."""
    return FakePlanner(options)
