"""Columnar ring buffers of samples. A gap stays a gap: what was not measured is NaN, never 0 and never the last value."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of a window in time order. `time_s` has shape (n,), each column shape (n,); NaN marks a gap."""

    time_s: Float64s
    columns: Mapping[str, Float64s]

    def latest(self, name: str) -> float | None:
        """The newest row's value of a series, or None where that row is a gap."""
        column = self.columns.get(name)
        if column is None or not len(column) or np.isnan(column[-1]):
            return None
        return float(column[-1])

    def increase(self, name: str) -> float | None:
        """How much a counter grew.

        Only steps between adjacent measured rows count, so growth across a gap is unknown and left out; a step down
        is a restart and counts from 0 (the rule of Prometheus' `increase`, without its extrapolation). None when no
        two adjacent rows were measured.
        """
        grown = self._growth(name)
        return None if grown is None else grown[0]

    def rate_per_s(self, name: str) -> float | None:
        """`increase` over the time whose growth is known, per second; None as there."""
        grown = self._growth(name)
        return None if grown is None else grown[0] / grown[1]

    def _growth(self, name: str) -> tuple[float, float] | None:
        column = self.columns.get(name)
        if column is None:
            return None
        with np.errstate(invalid="ignore"):  # an engine may report infinity: no growth is known from there
            steps = np.diff(column)
        known = np.isfinite(steps)
        if not known.any():
            return None
        grown = np.where(steps >= 0, steps, column[1:])[known].sum()
        return float(grown), float(np.diff(self.time_s)[known].sum())


class Window:
    """The last `capacity` samples of up to `max_columns` series of one source.

    Columns appear as they are first reported. Memory is bounded by 8 x capacity x (columns + 1) bytes.
    Not thread-safe: one writer on the event loop, readers on the same loop.
    """

    def __init__(self, capacity: int, max_columns: int = 256) -> None:
        if capacity < 2:
            raise ValueError(f"capacity: {capacity}; allowed: 2 or more")
        self._capacity = capacity
        self._max_columns = max_columns
        self._time_s: Float64s = np.full(capacity, np.nan)
        self._values: dict[str, Float64s] = {}
        self._rows = 0
        self.dropped_columns = 0

    def __len__(self) -> int:
        return min(self._rows, self._capacity)

    @property
    def columns(self) -> Sequence[str]:
        return tuple(self._values)

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        return self._time_s.nbytes * (len(self._values) + 1)

    def append(self, time_s: float, sample: Mapping[str, float] | None, room_bytes: float = math.inf) -> None:
        """Add one row at `time_s` (seconds, monotonically rising). `None` records that the source gave no answer.

        New columns may take `room_bytes` in all; values of columns beyond that, or beyond `max_columns`, are counted
        in `dropped_columns`. Raises ValueError when time does not rise: such a row would make every rate wrong.
        """
        if self._rows and time_s <= self._time_s[(self._rows - 1) % self._capacity]:
            raise ValueError(f"time_s: {time_s} does not follow the previous sample")
        row = self._rows % self._capacity
        self._time_s[row] = time_s
        for column in self._values.values():
            column[row] = np.nan
        for name, value in (sample or {}).items():
            held = self._values.get(name)
            if held is None:
                if len(self._values) >= self._max_columns or room_bytes < self._time_s.nbytes:
                    self.dropped_columns += 1
                    continue
                room_bytes -= self._time_s.nbytes
                held = self._values[name] = np.full(self._capacity, np.nan)
            held[row] = value
        self._rows += 1

    def since(self, time_s: float = -np.inf) -> Slice:
        """A copy of the rows with a time at or after `time_s`, oldest first."""
        oldest = self._rows % self._capacity if self._rows > self._capacity else 0
        first = int(np.searchsorted(self._in_order(self._time_s, oldest, 0), time_s))  # times rise
        columns = {name: self._in_order(column, oldest, first) for name, column in self._values.items()}
        return Slice(self._in_order(self._time_s, oldest, first), columns)

    def _in_order(self, column: Float64s, oldest: int, first: int) -> Float64s:
        """A copy from the `first` row on, counted from the oldest."""
        # Two block copies: a tenth of the time that picking row by row takes.
        behind = len(self) - oldest
        return np.concatenate(
            (column[oldest + min(first, behind) : len(self)], column[max(0, first - behind) : oldest])
        )
