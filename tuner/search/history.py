"""A study's trials as a sampler sees them, in arrays of bounded size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import Setting, Told, Verdict

Floats = npt.NDArray[np.float64]

# Trials a model sees: the cost of an ask does not grow beyond it.
SEEN_MAX = 90


@dataclass(slots=True, eq=False)
class History:
    """Trials by number. `tell` replaces, so that a restart may tell everything again. What is asked for often is kept
    sorted: a study of ten thousand trials is not gone through for every ask."""

    _trials: dict[int, Told] = field(default_factory=dict)
    _by_verdict: dict[Verdict | None, dict[int, Told]] = field(default_factory=dict)
    _sorted: dict[Verdict | None, list[Told]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._trials)

    def tell(self, told: Told) -> None:
        """Raises InvalidSpec for a value that is no finite number or an ok trial without one."""
        values_field = f"trials[{told.number}].values"
        if told.verdict is Verdict.OK and not told.values:
            raise InvalidSpec("an ok trial has a value for each objective", field=values_field)
        if not all(math.isfinite(value) for value in (*told.values, *told.violation)):
            raise InvalidSpec("not a finite number", field=values_field, value=str(told.values), limit="finite numbers")
        before = self._trials.pop(told.number, None)
        if before is not None:
            self._by_verdict[before.verdict].pop(told.number)
            self._sorted.pop(before.verdict, None)
        if not told.dropped:
            self._trials[told.number] = told
            self._by_verdict.setdefault(told.verdict, {})[told.number] = told
            self._sorted.pop(told.verdict, None)

    def pending(self) -> list[Setting]:
        """Settings under way, in their order."""
        return [told.setting for told in self._of(None)]

    def settings(self) -> list[Setting]:
        """What was asked so far, in any order but always the same."""
        return [told.setting for _, told in sorted(self._trials.items())]

    def under_way(self) -> list[Told]:
        """Trials without a result yet, in their order."""
        return self._of(None)

    def of(self, numbers: Iterable[int]) -> list[Told]:
        """Trials of these numbers, as far as they are known."""
        return [self._trials[number] for number in numbers if number in self._trials]

    def ok(self) -> list[Told]:
        """Measured trials, in their order."""
        return self._of(Verdict.OK)

    def infeasible(self) -> list[Told]:
        """Trials that their own configuration ended, in their order."""
        return self._of(Verdict.INFEASIBLE)

    def _of(self, verdict: Verdict | None) -> list[Told]:
        if verdict not in self._sorted:
            self._sorted[verdict] = [told for _, told in sorted(self._by_verdict.get(verdict, {}).items())]
        return self._sorted[verdict]


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
