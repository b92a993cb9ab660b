"""Whether a replay keeps the promise: percentiles against limits, and a queue that does not grow."""

from __future__ import annotations

import numpy as np

from controlplane.model.choice import LatencyTarget, Slo
from tuner.serving.planner.load import PERCENTILES
from tuner.serving.planner.pieces import Outcome
from tuner.serving.planner.static import limits
from tuner.serving.step.table import Floats

_SHARES = dict(PERCENTILES)
# Without a promise for TTFT a queue may still not grow without end: the last quarter of the requests may wait at most
# this many times as long as the first half, or a second, whichever is longer.
_GROWTH = 4.0
_GROWTH_FLOOR_MS = 1_000.0


def broken(outcome: Outcome, slo: Slo, *, ttft: bool = True, tpot: bool = True) -> str | None:
    """The first limit a replay breaks, with its numbers; None when it keeps all. `ttft`, `tpot`: which metric the role
    answers for."""
    if outcome.refused:
        return f"{outcome.refused} requests are too long for the KV cache of a rank"
    checks: list[tuple[str, LatencyTarget | None, Floats]] = []
    if ttft:
        checks.append(("TTFT", slo.ttft_ms, outcome.ttft_ms))
    if tpot:
        checks.append(("TPOT", slo.tpot_ms, outcome.tpot_ms))
    for name, target, values in checks:
        for point, limit in limits(target):
            value = percentile(values, point)
            if value > limit:
                return f"{name} {point} is {value:,.1f} ms, the SLO is {limit:g} ms"
    if ttft and slo.ttft_ms is None:
        return growing(outcome.ttft_ms)
    return None


def percentile(values: Floats, point: str) -> float:
    """A percentile of measured values; 0 where there are none (answers of one token have no TPOT)."""
    return float(np.percentile(values, _SHARES[point])) if len(values) else 0.0


def growing(ttft_ms: Floats) -> str | None:
    """What says that requests wait longer and longer within a replay; None where they do not."""
    count = len(ttft_ms)
    if count < 100:
        return None
    early, late = float(np.median(ttft_ms[: count // 2])), float(np.median(ttft_ms[-count // 4 :]))
    if late <= max(_GROWTH * early, _GROWTH_FLOOR_MS):
        return None
    return f"the queue grows: median TTFT goes from {early:,.0f} to {late:,.0f} ms within the replay"
