"""When nothing keeps the promise: what comes nearest, clearly marked, and the constraint that stands in the way."""

from __future__ import annotations

from controlplane.model.errors import TrimtabError
from tuner.serving.planner.candidate import Candidate
from tuner.serving.planner.evaluator import Evaluator
from tuner.serving.planner.search import Found

# Deployments that are replayed in full to find the one that keeps the promise for most requests.
_TRIED = 8


def best_effort(found: Found, evaluator: Evaluator) -> Candidate | None:
    """The deployable candidate with the largest share of requests within the SLO when its pools are filled; None when
    none could be replayed."""
    tried: list[tuple[float, tuple[object, ...], Candidate]] = []
    for candidate in _hopeful(found)[: 4 * _TRIED]:
        if len(tried) == _TRIED:
            break
        try:
            deployment = candidate.largest()
            if deployment is None:
                continue
            candidate.prediction = evaluator.predict(deployment)
        except TrimtabError:
            continue
        candidate.deployment = deployment
        tried.append((-candidate.prediction.slo_attained, candidate.key, candidate))
    if not tried:
        return None
    return min(tried, key=lambda item: item[:2])[-1]


def _hopeful(found: Found) -> list[Candidate]:
    """Deployable ones that were weighed: replayed ones first, then those with the largest load by their bounds."""
    able = [item for item in found.lost if item.advisory is None and item.reason in ("PoolTooSmall", "SloUnreachable")]
    return sorted(able, key=lambda item: (not item.replayed, -item.reach, item.key))
