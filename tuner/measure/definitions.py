"""What the metrics mean. A change of a formula is a new version: numbers of two versions are never compared.

Times count from the moment a request was meant to be sent, so that a stall shows in every request it delays. TPOT is
that of vLLM's benchmark: (end - first token) / (tokens - 1), without requests of one token. Goodput counts requests that
came whole and kept every limit of the SLO, per second; a request of one token keeps any TPOT. Percentiles are over
requests that came whole; a request that failed is in none of them, in no rate, and breaks every SLO.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from controlplane.model.tuning_job import RequestSlo
from tuner.measure.loadgen.job import Sample

DEFINITIONS = "trimtab-1"
PERCENTILES = (50, 90, 95, 99)
_Z90 = 1.6449  # two-sided 90 % of the normal distribution

Metrics = dict[str, float | None]


def ttft_s(sample: Sample) -> float | None:
    return None if sample.first_s is None else sample.first_s - sample.intended_s


def tpot_s(sample: Sample) -> float | None:
    """None for one token."""
    if sample.first_s is None or sample.last_s is None or sample.output_tokens < 2:
        return None
    return (sample.last_s - sample.first_s) / (sample.output_tokens - 1)


def e2e_s(sample: Sample) -> float | None:
    return None if sample.last_s is None else sample.last_s - sample.intended_s


def keeps(sample: Sample, slo: RequestSlo) -> bool:
    """Whether this request is good."""
    if sample.error:
        return False
    pairs = ((ttft_s(sample), slo.ttft_ms), (tpot_s(sample), slo.tpot_ms), (e2e_s(sample), slo.e2e_ms))
    return all(value is None or limit is None or value * 1e3 <= limit for value, limit in pairs)


def wilson(good: int, total: int, z: float = _Z90) -> tuple[float, float]:
    """Interval of a share (Wilson 1927). (0, 1) where nothing was counted."""
    if total == 0:
        return 0.0, 1.0
    share, spread = good / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def metrics_of(samples: Sequence[Sample], slo: RequestSlo | None) -> Metrics:
    """Of one run; warm-up requests are left out. Unknown is None. Raises ValueError without measured requests."""
    measured = [sample for sample in samples if not sample.warm_up]
    if not measured:
        raise ValueError("no measured requests")
    whole = [sample for sample in measured if not sample.error]
    span_s = span(measured)
    out: Metrics = {
        "duration_s": span_s,
        "requests": float(len(measured)),
        "failed_requests": float(len(measured) - len(whole)),
        "requests_per_s": _rate(len(whole), span_s),
        "output_tokens_per_s": _rate(sum(sample.output_tokens for sample in whole), span_s),
        "prompt_tokens_per_s": _rate(sum(sample.prompt_tokens for sample in whole), span_s),
        "lateness_p99_ms": _percentile([(s.sent_s - s.intended_s) for s in measured if s.sent_s is not None], 99),
    }
    for name, values in (
        ("ttft", [ttft_s(sample) for sample in whole]),
        ("tpot", [tpot_s(sample) for sample in whole]),
        ("e2e", [e2e_s(sample) for sample in whole]),
        ("gap_max", [sample.gap_max_s for sample in whole]),
    ):
        known = [value for value in values if value is not None]
        out[f"{name}_mean_ms"] = float(np.mean(known)) * 1e3 if known else None
        for percent in PERCENTILES:
            out[f"{name}_p{percent}_ms"] = _percentile(known, percent)
    if slo is not None:
        good = sum(keeps(sample, slo) for sample in measured)
        low, high = wilson(good, len(measured))
        out |= {
            "goodput_per_s": _rate(good, span_s),
            "attainment": good / len(measured),
            "attainment_lo": low,
            "attainment_hi": high,
        }
    return out


def span(measured: Sequence[Sample]) -> float:
    """Seconds from the first measured request's intended time to the last one's end (its last token, or for want of
    one its sending)."""
    ends = [sample.last_s or sample.sent_s or sample.intended_s for sample in measured]
    return max(ends) - min(sample.intended_s for sample in measured)


def _rate(count: int, span_s: float) -> float | None:
    return count / span_s if span_s > 0 else None


def _percentile(values_s: Sequence[float], percent: float) -> float | None:
    """ms; linear between order statistics, as numpy's default."""
    return float(np.percentile(values_s, percent)) * 1e3 if values_s else None
