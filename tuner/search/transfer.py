"""What a cheaper look at the same space says beforehand: a predictor's answers, short runs, a study on other hardware.

The cheap level is never mixed with measurements. A model of it gives each setting an expected score, and what was
measured decides, by least squares shrunk towards full trust, how much of it holds here: a level that misleads is
soon given no weight. Its failures are not taken over: what ran out of memory elsewhere may work here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlplane.model.tuning import Objective, Told, Verdict
from tuner.search.gaussian import Regression, fit
from tuner.search.history import within
from tuner.search.objective import scores_of, weights_of
from tuner.search.space import Rows, Space

Floats = npt.NDArray[np.float64]

# Trust before anything was measured weighs as much as so many measurements.
_TRUST = 3.0
TRIALS_LEAST = 4


def weight_of(expected: Floats, scores: Floats) -> float:
    """In [0, 1.5]: how much a difference in what was expected is worth in what was measured. 1 where nothing says so."""
    away = expected - expected.mean()
    squares = float(away @ away)
    if squares <= 0.0 or len(scores) < 2:
        return 1.0
    shrink = _TRUST * squares / len(scores)
    found = (float(away @ (scores - scores.mean())) + shrink) / (squares + shrink)
    return float(np.clip(found, 0.0, 1.5))


@dataclass(frozen=True, slots=True, eq=False)
class CheapLevel:
    """Scores of the cheap level, standardised by their spread. `looked`: those of settings that it was asked about, by
    their features; only for others a model of them is needed."""

    space: Space
    model: Regression
    middle: float
    looked: Mapping[bytes, float]

    def at(self, rows: Rows) -> Floats:
        """Expected score of each row, above or below the level's own middle."""
        x = self.space.features(rows)
        mean, _ = self.model.at(x)
        found = [self.looked.get(x[i].tobytes(), mean[i]) for i in range(len(rows))]
        return np.asarray(found, np.float64) - self.middle

    def weight(self, rows: Rows, scores: Floats) -> float:
        """In [0, 1.5]: how much a difference in the cheap level is worth in `scores` measured at `rows`."""
        return weight_of(self.at(rows), scores)

    def best(self, rows: Rows, count: int) -> list[int]:
        """Rows to begin with: the most promising, each the best of its neighbourhood."""
        scores, x = self.at(rows), self.space.features(rows)
        chosen: list[int] = []
        for i in np.argsort(-scores, kind="stable"):
            if all(float(np.sum((x[i] - x[j]) ** 2)) > 0.05 for j in chosen):
                chosen.append(int(i))
            if len(chosen) == count:
                break
        return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """What the cheap level adds to the model of the measurements: that one learns where it is wrong."""

    cheap: CheapLevel | None
    weight: float

    @classmethod
    def of(cls, cheap: CheapLevel | None, rows: Rows, scores: Floats) -> Beside:
        """Weighed by what was measured."""
        return cls(cheap, 0.0 if cheap is None else cheap.weight(rows, scores))

    def at(self, rows: Rows) -> Floats | float:
        """To be added to the model at each row."""
        return 0.0 if self.cheap is None else self.weight * self.cheap.at(rows)


def cheap_level(space: Space, objectives: Sequence[Objective], trials: Sequence[Told]) -> CheapLevel | None:
    """None where too little is known. Settings must belong to the space (`Space.checked`)."""
    known = [told for told in trials if told.verdict is Verdict.OK]
    if len(known) < TRIALS_LEAST:
        return None
    scores = scores_of(known, objectives, weights_of(len(objectives), None))
    kept = within(scores)
    x = space.features(space.rows_of([told.setting for told in known]))
    looked = {x[i].tobytes(): float(scores[i]) for i in range(len(known))}
    return CheapLevel(space, fit(x[kept], scores[kept]), float(scores.mean()), looked)
