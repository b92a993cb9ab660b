"""A study's trials as a sampler sees them, in arrays of bounded size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import Setting, Told, Verdict

Floats = npt.NDArray[np.float64]

# Trials a model sees: the cost of an ask does not grow beyond it.
SEEN_MAX = 120


@dataclass(slots=True, eq=False)
class History:
    """Trials by number. `tell` replaces, so that a restart may tell everything again."""

    trials: dict[int, Told]

    def tell(self, told: Told) -> None:
        """Raises InvalidSpec for a value that is no finite number or an ok trial without one."""
        if told.verdict is Verdict.OK and not told.values:
            raise InvalidSpec("an ok trial has a value for each objective", field=f"trials[{told.number}].values")
        if told.dropped:
            self.trials.pop(told.number, None)
        else:
            self.trials[told.number] = told

    def pending(self) -> list[Setting]:
        """Settings under way, in their order."""
        return [told.setting for _, told in sorted(self.trials.items()) if told.verdict is None]

    def ok(self) -> list[Told]:
        """Measured trials, in their order."""
        return [told for _, told in sorted(self.trials.items()) if told.verdict is Verdict.OK]

    def infeasible(self) -> list[Told]:
        """Trials that their own configuration ended, in their order."""
        return [told for _, told in sorted(self.trials.items()) if told.verdict is Verdict.INFEASIBLE]


def within(scores: Floats, most: int = SEEN_MAX) -> npt.NDArray[np.int64]:
    """Indices to keep of trials in their order with `scores` (higher is better): half the best, a quarter the newest,
    the rest spread evenly over the others. Ascending."""
    n = len(scores)
    if n <= most:
        return np.arange(n)
    keep = set(np.argsort(-scores, kind="stable")[: most // 2].tolist())
    newest = [i for i in range(n - 1, -1, -1) if i not in keep][: most // 4]
    keep.update(newest)
    others = [i for i in range(n) if i not in keep]
    keep.update(others[i] for i in np.linspace(0, len(others) - 1, most - len(keep)).astype(int))
    return np.array(sorted(keep), np.int64)
