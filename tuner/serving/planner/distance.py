"""How far from its promise a deployment is: the worst percentile over its limit. Pure."""

from __future__ import annotations

import math

from controlplane.model.choice import Slo
from controlplane.model.errors import TrimtabError
from controlplane.model.plans import Prediction
from tuner.serving.planner.candidate import Candidate, Part
from tuner.serving.planner.evaluator import Evaluator
from tuner.serving.planner.static import Static, limits


def worst(prediction: Prediction, slo: Slo) -> tuple[float, str]:
    """(largest value over its limit, which one with its numbers); 0 where no promised latency is known."""
    found = [
        (value / limit, f"{name} {point} {value:,.1f} of {limit:g} ms")
        for name, target, values in (
            ("TTFT", slo.ttft_ms, prediction.ttft_ms),
            ("TPOT", slo.tpot_ms, prediction.tpot_ms),
        )
        for point, limit in limits(target)
        if (value := getattr(values, point)) is not None
    ]
    return max(found, key=lambda item: item[0], default=(0.0, "no latency promised"))


def at_least(candidate: Candidate) -> float:
    """The same ratio by the static estimates with the pools filled: a replay will hardly show less. Infinite where nothing
    is known or nothing fits."""
    counts = candidate.largest_counts()
    if counts is None:
        return math.inf
    try:
        return max(
            min(
                _of_part(static, part, load, candidate.evaluator)
                for _, static in candidate.evaluator.bounds(part.shape)
            )
            for part, load in zip(candidate.parts, candidate.shares(counts), strict=True)
        )
    except (TrimtabError, ValueError):  # no estimate of a part
        return math.inf


def _of_part(static: Static, part: Part, load: float, evaluator: Evaluator) -> float:
    slo, ratios = evaluator.request.slo, [0.0]
    if part.role != "decode":
        ratios += [static.ttft_floor_ms[point] / limit for point, limit in limits(slo.ttft_ms)]
    if part.role != "prefill":
        ratios += [static.tpot_floor_ms[point] / limit for point, limit in limits(slo.tpot_ms)]
    if not evaluator.closed:
        ratios.append(load / static.most(part.role))  # above 1 the queue grows for as long as the load lasts
        if part.role != "prefill":
            ratios += [static.curves[part.role].tpot_at(load) / limit for _, limit in limits(slo.tpot_ms)[:1]]
    return max(ratios)
