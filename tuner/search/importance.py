"""What mattered: how much of the objective's variation over the space is lost to each parameter's choice.

Total effects of Sobol, by Jansen's estimator (Jansen 1999; Saltelli and others 2010), of the surrogate's mean over the
allowed space: half the mean squared change when one parameter alone is drawn anew. Two weaknesses, to be shown beside
the numbers. They speak of the surrogate, so they are worth no more than it predicts (`explained`). And they average
over the whole space: a knob that ruins far corners counts, though it matters little near the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import Objective, Told, Verdict
from tuner.search.gaussian import fit_averaged
from tuner.search.history import within
from tuner.search.objective import scores_of, weights_of
from tuner.search.one_thread import one_thread
from tuner.search.space import Space

Floats = npt.NDArray[np.float64]

_DRAWS = 4096
TRIALS_LEAST = 8


@dataclass(frozen=True, slots=True)
class Importance:
    """`shares`: of each parameter, largest first; with interactions they add up to more than 1. `explained`: share of
    the measured variation that the surrogate predicts of trials it has not seen; below about 0.5, believe nothing."""

    shares: tuple[tuple[str, float], ...]
    explained: float
    trials: int


def importance(space: Space, objectives: Sequence[Objective], trials: Sequence[Told]) -> Importance:
    """Of the first objective, or of all of them alike. Raises InvalidSpec with fewer than eight measured trials."""
    measured = [told for told in trials if told.verdict is Verdict.OK]
    if len(measured) < TRIALS_LEAST:
        raise InvalidSpec(
            f"{len(measured)} trials were measured", field="trials", limit=f"at least {TRIALS_LEAST} say what mattered"
        )
    with one_thread():
        scores = scores_of(measured, objectives, weights_of(len(objectives), None))
        kept = within(scores)
        x = space.features(space.rows_of([measured[int(i)].setting for i in kept]))
        model = fit_averaged(x, scores[kept])
        rng = np.random.default_rng(0)
        first, second = space.draw(rng, _DRAWS), space.draw(rng, _DRAWS)
        mean, _ = model.at(space.features(first))
        variance = float(np.var(mean))
        shares = []
        for j, axis in enumerate(space.axes):
            unit = first.unit.copy()
            unit[:, j] = second.unit[:, j]
            moved = space.rows_of_points(unit)
            allowed = space.allowed(moved)
            if not allowed.any() or variance <= 1e-18:
                shares.append((axis.name, 0.0))
                continue
            other, _ = model.at(space.features(moved))
            change = 0.5 * float(np.mean((mean - other)[allowed] ** 2))
            shares.append((axis.name, change / variance))
        shares.sort(key=lambda pair: (-pair[1], pair[0]))
        explained = _explained(model.members[0].left_out(), scores[kept])
    return Importance(tuple(shares), explained, len(kept))


def _explained(predicted: Floats, values: Floats) -> float:
    spread = float(np.sum((values - values.mean()) ** 2))
    return 0.0 if spread <= 0 else 1.0 - float(np.sum((values - predicted) ** 2)) / spread
