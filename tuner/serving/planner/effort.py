"""When nothing keeps the promise: what comes nearest to it, clearly marked, and the constraint that stands in the way."""

from __future__ import annotations

from controlplane.model.errors import TrimtabError
from tuner.serving.planner.candidate import Candidate
from tuner.serving.planner.distance import at_least, worst
from tuner.serving.planner.evaluator import Evaluator
from tuner.serving.planner.search import Found

# Deployments that are replayed in full to find the nearest.
_TRIED = 8


def best_effort(found: Found, evaluator: Evaluator) -> Candidate | None:
    """The deployable candidate whose worst percentile is the least above its limit when its pools are filled, of equals
    the one with more requests within the SLO; None when none could be replayed. Those that can be near by their static
    estimates are replayed first, until none of the others can be nearer."""
    nearest: tuple[tuple[float, float, tuple[object, ...]], Candidate] | None = None
    tried = 0
    for bound, candidate in _hopeful(found)[: 4 * _TRIED]:
        if tried == _TRIED or (nearest is not None and bound > nearest[0][0]):
            break
        try:
            deployment = candidate.largest()
            if deployment is None:
                continue
            candidate.prediction = evaluator.predict(deployment)
        except TrimtabError:
            continue
        candidate.deployment = deployment
        tried += 1
        rank = (
            worst(candidate.prediction, evaluator.request.slo)[0],
            -candidate.prediction.slo_attained,
            candidate.key,
        )
        if nearest is None or rank < nearest[0]:
            nearest = rank, candidate
    return None if nearest is None else nearest[1]


def _hopeful(found: Found) -> list[tuple[float, Candidate]]:
    """Deployable ones that were weighed, with the least distance by the static estimates: nearest first, of equals those
    that were replayed, then those with the largest load by their bounds."""
    able = [
        item
        for item in (*found.lost, *found.unsearched)
        if item.advisory is None and item.reason in ("PoolTooSmall", "SloUnreachable", "NotSearched")
    ]
    rated = [(at_least(item), item) for item in able]
    return sorted(rated, key=lambda one: (one[0], not one[1].replayed, -one[1].reach, one[1].key))
