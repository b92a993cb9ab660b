"""Every setting of a grid that the study did not start with, once each, in an order that covers the space wherever it is cut off."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from controlplane.model.errors import Refused
from controlplane.model.ports import Sampler
from controlplane.model.tuning import Proposal, Setting, Told
from tuner.search.question import Question
from tuner.search.space import Rows

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Values of an axis that has more: its ends and what lies evenly between.
LEVELS = 5
# Points looked at before the rest of a sparse grid is given up.
POINTS_MAX = 1_000_000
_CHUNK = 4096
_SAME = 1e-12  # on its way through the unit cube a real number may lose its last digits
# The golden section spreads multiples evenly (Knuth, The Art of Computer Programming 3, 6.4).
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(slots=True, eq=False)
class GridSampler:
    """`SpaceExhausted` is refused when every point was proposed."""

    question: Question
    _levels: list[Floats] = field(init=False)
    _found: list[Setting] = field(default_factory=list)
    _looked: int = 0

    def __post_init__(self) -> None:
        self._levels = [_levels(axis.size) for axis in self.question.space.axes]

    @property
    def size(self) -> int:
        """Points of the full grid; conditions and rules take some away."""
        return math.prod(len(levels) for levels in self._levels)

    def tell(self, told: Told) -> None:
        """Nothing is learned."""

    def ask(self, number: int) -> Proposal:
        """Raises Refused (`SpaceExhausted`) past the last point."""
        given = self.question.given(number)
        if given is not None:
            return given
        place = number - len(self.question.first)
        end = min(self.size, POINTS_MAX)
        while len(self._found) <= place and self._looked < end:
            self._look(min(self._looked + _CHUNK, end))
        if place >= len(self._found):
            raise Refused(
                f"all {len(self._found)} settings of the grid that were not started with were proposed"
                if self.question.first
                else f"all {len(self._found)} settings of the grid were proposed",
                field="budget.trials",
                limit=str(len(self._found) + len(self.question.first)),
                code="SpaceExhausted",
            )
        return Proposal(setting=self._found[place], reason=f"grid point {place + 1}")

    def _look(self, until: int) -> None:
        """Add the allowed ones of the next points."""
        space, size = self.question.space, self.size
        stride = _stride(size, self.question.seed)
        unit = np.empty((until - self._looked, len(self._levels)))
        first = np.ones(len(unit), bool)  # of an axis that is switched off only the first level counts
        levels = np.empty(unit.shape, np.int64)
        for row, k in enumerate(range(self._looked, until)):
            rest = (k * stride + self.question.seed) % size  # Python's whole numbers: a grid may have 5**64 points
            for j, values in enumerate(self._levels):
                rest, levels[row, j] = divmod(rest, len(values))
                unit[row, j] = values[levels[row, j]]
        rows = space.rows_of_points(unit)
        for j, axis in enumerate(space.axes):
            first &= rows.active[axis.name] | (levels[:, j] == 0)
        for i in np.flatnonzero(first & space.allowed(rows) & ~self._started_with(rows)):
            self._found.append(space.setting(rows, int(i)))
        self._looked = until

    def _started_with(self, rows: Rows) -> Bools:
        """Rows that are measured before the grid begins."""
        space, given = self.question.space, [self.question.space.checked(one) for one in self.question.first]
        out = np.zeros(len(rows), bool)
        x = space.features(rows)
        for known in space.features(space.rows_of(given)) if given else ():
            out |= np.abs(x - known).max(axis=1) < _SAME
        return out


def make(question: Question) -> Sampler:
    """The registry's entry."""
    return GridSampler(question)


def _levels(values: float) -> Floats:
    """Points in [0, 1] that give different values."""
    if values <= LEVELS:
        return (np.arange(int(values)) + 0.5) / int(values)
    return np.linspace(0.0, 1.0, LEVELS)


def _stride(size: int, seed: int) -> int:
    """Without a common factor with `size`: its multiples visit every point once."""
    stride = max(1, int(size * _GOLDEN)) + seed % 97
    while math.gcd(stride, size) != 1:
        stride += 1
    return stride
