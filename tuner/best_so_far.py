"""What a trial has to be able to reach: the best that was measured in full, and how far processes of one setting lie apart.

Heard of in the order of the trials, like the sampler: so the same trials give the same bars in any process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from controlplane.model.tuning import PACE_MAX, Bar, TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import TrialRecord
from tuner.intervals import t_beyond
from tuner.measure.short import CONFIDENCE, short_requests

# Two processes of one setting, the logarithm of the ratio of their rates: its standard deviation as long as the study
# itself says nothing of it. Measured in 45 pairs on a machine of which others took 80 %; quiet ones are far below.
DEVIATION = 0.21
# What that is worth beside repeated measurements of the study, in degrees of freedom.
_WORTH = 8


@dataclass(slots=True)
class _Group:
    """Full measurements of one configuration. `logs`: of what a request took, where there are several."""

    numbers: list[int] = field(default_factory=list)
    total: float = 0.0
    broken: list[float] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return self.total / len(self.numbers)

    @property
    def kept(self) -> bool:
        return all(value <= 0 for value in self.broken)

    @property
    def spread(self) -> tuple[float, int]:
        """Sum of squares, degrees of freedom."""
        if len(self.logs) < 2:
            return 0.0, 0
        middle = math.fsum(self.logs) / len(self.logs)
        return math.fsum((value - middle) ** 2 for value in self.logs), len(self.logs) - 1


@dataclass(slots=True, eq=False)
class BestSoFar:
    """`took_ms`: mean time of a request in a trial of this number, None where it is unknown."""

    spec: TuningSpec
    took_ms: Callable[[int], float | None]
    _groups: dict[str, _Group] = field(default_factory=dict)
    _best: str | None = None
    _squares: float = 0.0
    _freedom: int = 0

    def hear(self, trial: TrialRecord) -> None:
        """A trial that has ended, of any purpose."""
        if trial.state is not TrialState.DONE or not trial.objectives or trial.short:
            return
        group = self._groups.setdefault(trial.canonical, _Group())
        group.numbers.append(trial.number)
        group.total += trial.objectives[0]
        broken = trial.violation or []
        group.broken = [a + b for a, b in zip(group.broken, broken, strict=False)] if group.broken else list(broken)
        self._learn(group)
        if trial.canonical == self._best:
            self._best = None
            for canonical in self._groups:
                self._consider(canonical)
        else:
            self._consider(trial.canonical)

    def bar(self, canonical: str) -> Bar | None:
        """For a trial that resolves to this. None: measured in full, for nothing is known yet, or it is to be another
        sample of what was measured in full before."""
        if self._best is None or canonical in self._groups:
            return None
        value = self._groups[self._best].mean if len(self.spec.objectives) == 1 else None
        return Bar(value=value, pace=self.pace())

    def pace(self) -> float:
        """How many times as fast as another a process of one setting may be."""
        freedom = _WORTH + self._freedom
        variance = (_WORTH * DEVIATION**2 + 2 * self._squares) / freedom
        return math.exp(min(t_beyond(2 * (1 - CONFIDENCE), freedom) * math.sqrt(variance), math.log(PACE_MAX)))

    def _consider(self, canonical: str) -> None:
        group = self._groups[canonical]
        if not group.kept:
            return
        best = None if self._best is None else self._groups[self._best].mean
        down = self.spec.objectives[0].direction == "minimize"
        if best is None or (group.mean < best if down else group.mean > best):
            self._best = canonical

    def _learn(self, group: _Group) -> None:
        """A configuration that was measured again says how far its processes lie apart."""
        if len(group.numbers) < 2:
            return
        before = group.spread
        for number in group.numbers if len(group.numbers) == 2 else group.numbers[-1:]:
            took_ms = self.took_ms(number)
            if took_ms is not None and took_ms > 0:
                group.logs.append(math.log(took_ms))
        after = group.spread
        self._squares += after[0] - before[0]
        self._freedom += after[1] - before[1]


def best_so_far(spec: TuningSpec, took_ms: Callable[[int], float | None]) -> BestSoFar | None:
    """None for a job whose trials are all measured in full."""
    return None if short_requests(spec) is None else BestSoFar(spec, took_ms)
