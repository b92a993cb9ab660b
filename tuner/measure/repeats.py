"""How many runs a trial needs, and what they say together. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from controlplane.model.tuning_job import Measuring, RequestSlo
from tuner.intervals import interval_of
from tuner.measure.definitions import Metrics, metrics_of, wilson
from tuner.measure.loadgen.job import Sample

# A run alone is judged by consecutive fifths of its requests: requests near each other are alike, fifths hardly.
_BATCHES = 5
_BATCH_REQUESTS = 10  # smaller ones say too little


def enough(
    runs: Sequence[Metrics], first: Sequence[Sample], metric: str, slo: RequestSlo | None, how: Measuring
) -> bool:
    """Whether the interval of this metric's mean is narrow enough, or the runs are used up."""
    if len(runs) >= how.runs_max:
        return True
    if len(runs) < how.runs_min:
        return False
    half = half_width_pct(runs, first, metric, slo)
    return half is not None and half <= how.width_pct


def half_width_pct(
    runs: Sequence[Metrics], first: Sequence[Sample], metric: str, slo: RequestSlo | None
) -> float | None:
    """Half of the 90 % interval, % of the mean; None where that cannot be said."""
    values = [run.get(metric) for run in runs]
    if len(values) == 1:
        values = [batch.get(metric) for batch in _batches(first, slo)]
    known = [value for value in values if value is not None]
    if len(known) < 2 or len(known) < len(values):
        return None
    interval = interval_of(known)
    if interval.hi is None or interval.mean == 0:
        return None
    return abs((interval.hi - interval.mean) / interval.mean) * 100


def combined(runs: Sequence[Metrics]) -> Metrics:
    """Means over the runs; counts and seconds are sums; the interval of the attainment counts all requests. A metric
    that one run does not know is unknown."""
    out: Metrics = {}
    for name in runs[0]:
        values = [run.get(name) for run in runs]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            out[name] = None
        elif name in ("requests", "failed_requests", "duration_s", "engine_cpu_s", "steps", "preemptions"):
            out[name] = math.fsum(known)
        else:
            out[name] = math.fsum(known) / len(known)
    if out.get("attainment") is not None:
        total = sum(int(run["requests"] or 0) for run in runs)
        good = sum(round((run["attainment"] or 0.0) * (run["requests"] or 0.0)) for run in runs)
        out["attainment_lo"], out["attainment_hi"] = wilson(good, total)
    out["runs"] = float(len(runs))
    return out


def _batches(samples: Sequence[Sample], slo: RequestSlo | None) -> list[Metrics]:
    measured = sorted((sample for sample in samples if not sample.warm_up), key=lambda sample: sample.intended_s)
    size = len(measured) // _BATCHES
    if size < _BATCH_REQUESTS:
        return []
    return [metrics_of(measured[i * size : (i + 1) * size], slo) for i in range(_BATCHES)]
