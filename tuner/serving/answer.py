"""A replay as the batch interface's answer: percentiles, intervals, rates, energy, cost, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from controlplane.model.plans import Provenance, Tier
from tuner.serving.draw import Draw
from tuner.serving.replay.result import Floats, ReplayResult, percentile
from tuner.serving.step.query import MissKind

_TIERS: tuple[Tier, ...] = (
    "calibrated", "measured", "measured-bf16-attention", "sibling", "borrowed", "roofline",
)  # fmt: skip
_DIGITS = 4  # after the point: 0.1 us of a latency in ms
_FAILED: MissKind = "package-error"
NO_TPOT = "outputs of one token have no TPOT"
TAILS = (90, 95, 99)
_TAIL_BOUNDS = tuple(f"p{q}_{end}" for q in TAILS for end in ("lo", "hi"))
_NORMAL_90 = 1.645  # two-sided 90 % of a normal distribution
FEW_REQUESTS = 100  # below, a 99th percentile is the largest value


@dataclass(frozen=True, slots=True)
class Interval:
    """The true mean over the predicted one lies in [lo, hi] with 90 % confidence."""

    lo: float
    hi: float


def answer_of(
    result: ReplayResult,
    *,
    accelerators: int,
    intervals: Mapping[str, Interval],
    draw: Draw,
    provenance: Provenance,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Every field of the interface but the id. `intervals` by metric (ttft, tpot, e2e); what is not named is unknown."""
    said = list(warnings)
    refused = int(result.refused.sum())
    if refused:
        said.append(f"{refused} of {len(result.isl)} requests fit no engine's KV cache and were refused")
    if (result.osl <= 1).all():
        said.append(NO_TPOT)
    if 0 < result.answered < FEW_REQUESTS:
        said.append(f"{result.answered} requests: high percentiles rest on few of them")
    growth = _queue_growth(result)
    if growth is not None:
        said.append(growth)
    latencies = {"ttft": result.ttft_ms, "tpot": result.tpot_ms, "e2e": result.e2e_ms}
    tokens_per_s = result.output_tokens_per_s
    return {
        **{f"{name}_ms": quantiles(values, intervals.get(name)) for name, values in latencies.items()},
        "requests": len(result.isl),
        "requests_per_s": _rounded(result.requests_per_s),
        "tokens_per_s": _rounded(tokens_per_s),
        "tokens_per_s_per_gpu": _rounded(tokens_per_s / accelerators),
        "accelerators": accelerators,
        "kv_fraction_peak": _rounded(result.kv_fraction_peak),
        "preemptions": int(result.preemptions.sum()),
        "power_w": _rounded(draw.power_w),
        "power_error_pct": draw.power_error_pct,
        "joules_per_output_token": _rounded(draw.joules_per_output_token),
        "cost_per_million_output_tokens": _rounded(draw.cost_per_million_output_tokens),
        "currency": draw.currency,
        "tier": provenance.tier,
        "provenance": provenance.model_dump(mode="json"),
        "warnings": said,
    }


def per_request_arrays(result: ReplayResult) -> dict[str, list[float | None]]:
    """One value per request in order of issue; None: refused, or an output of one token has no second."""
    arrays: Mapping[str, Floats] = {
        "arrival_s": result.arrival_s,
        "ttft_ms": result.ttft_ms,
        "tpot_ms": result.tpot_ms,
        "e2e_ms": result.e2e_ms,
    }
    return {name: [_rounded(float(value)) for value in values] for name, values in arrays.items()}


def quantiles(values: Floats, interval: Interval | None) -> dict[str, float | None]:
    """Mean and percentiles, linear between ranks; `lo` and `hi` bound the true mean, `p90_lo` and so on the true
    percentiles. None where nothing was answered."""
    known = values[~np.isnan(values)]
    if not known.size:
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "lo", "hi", *_TAIL_BOUNDS))
    mean = float(known.mean())
    found: dict[str, float | None] = {"mean": _rounded(mean)}
    found |= {f"p{q}": _rounded(percentile(known, q)) for q in (50, 90, 95, 99)}
    found["lo"] = None if interval is None else _rounded(mean * interval.lo)
    found["hi"] = None if interval is None else _rounded(mean * interval.hi)
    tails = [bound for q in TAILS for bound in tail_bounds(known, q, interval)]
    return found | {name: _rounded(bound) for name, bound in zip(_TAIL_BOUNDS, tails, strict=True)}


def tail_bounds(known: Floats, q: int, interval: Interval | None) -> tuple[float | None, float | None]:
    """Bounds of a percentile: those of the mean, on what the percentile of a run of this many requests may be by chance
    (order statistics, normal approximation). None: above what the run can tell."""
    if interval is None:
        return None, None
    share = q / 100
    slack = _NORMAL_90 * math.sqrt(share * (1 - share) / known.size)
    low = percentile(known, 100 * max(share - slack, 0.0)) * interval.lo
    return low, None if share + slack > 1 else percentile(known, 100 * (share + slack)) * interval.hi


def table_failures(provenances: Iterable[Provenance]) -> list[str]:
    """A warning for each source whose tables' package failed in a way it does not document: what answers instead may be
    much weaker, and nobody reads notes that look like those of every unmeasured shape."""
    found: dict[str, str] = {}
    for item in provenances:
        said = next((note for note in item.notes if f": {_FAILED}: " in note), None)
        if said is not None:
            found.setdefault(item.source, said.replace(f"{_FAILED}: ", ""))
    return [f"the measured tables failed ({said}); times are from {source}" for source, said in found.items()]


def merged(provenances: Sequence[tuple[str, Provenance]]) -> Provenance:
    """Of several roles: the weakest tier, every source and note with its role."""
    if len(provenances) == 1:
        return provenances[0][1]
    weakest = max((item for _, item in provenances), key=lambda item: _TIERS.index(item.tier))
    modes = dict.fromkeys(item.query_mode for _, item in provenances if item.query_mode)
    return Provenance(
        tier=weakest.tier,
        source="; ".join(f"{role}: {item.source}" for role, item in provenances),
        query_mode=", ".join(modes) or None,
        notes=[f"{role}: {note}" for role, item in provenances for note in item.notes],
    )


def _queue_growth(result: ReplayResult) -> str | None:
    """Whether more came than was served: then latencies describe the length of the run, not a steady state."""
    arrived = result.arrival_s[~result.refused]
    if arrived.size < FEW_REQUESTS:
        return None
    coming_s = float(arrived.max() - arrived.min())
    if coming_s <= 0 or result.span_s <= 1.5 * coming_s:
        return None
    middle = float(np.median(arrived))
    early = float(np.median(result.ttft_ms[(result.arrival_s <= middle) & ~result.refused]))
    late = float(np.median(result.ttft_ms[(result.arrival_s > middle) & ~result.refused]))
    if late <= 2 * early:
        return None
    return (
        f"overload: requests came for {coming_s:.4g} s and took {result.span_s:.4g} s; the queue grows, so latencies "
        "depend on how long the load lasts"
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(float(value), _DIGITS)
