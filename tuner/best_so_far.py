"""What a trial has to be able to reach: the best that was measured in full, and how far processes of one setting lie apart.

Heard of in the order of the trials, like the sampler: so the same trials give the same bars in any process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from controlplane.model.tuning import PACE_MAX, Bar, TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import MeasuredTrial, TrialRecord
from tuner.intervals import t_beyond
from tuner.measure.short import CONFIDENCE, short_requests

# Two processes of one setting, the logarithm of the ratio of their rates: its standard deviation as long as the study
# itself says nothing of it. Measured in 45 pairs on a machine of which others took 80 %; quiet ones are far below.
DEVIATION = 0.21
# What that is worth beside repeated measurements of the study, in degrees of freedom.
_WORTH = 8


@dataclass(slots=True)
class _Group:
    """Full measurements of one configuration. `timed`: those of which is known what a request took, `middle`: the mean
    of its logarithm. Its size does not grow with them: where there are few settings each is measured often."""

    count: int = 0
    total: float = 0.0
    broken: list[float] = field(default_factory=list)
    timed: int = 0
    middle: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def kept(self) -> bool:
        return all(value <= 0 for value in self.broken)


@dataclass(slots=True, eq=False)
class BestSoFar:
    """Of one job, as far as its trials were heard of."""

    spec: TuningSpec
    _groups: dict[str, _Group] = field(default_factory=dict)
    _best: str | None = None
    _squares: float = 0.0
    _freedom: int = 0

    def hear(self, trial: TrialRecord) -> None:
        """A trial that has ended, of any purpose."""
        if trial.state is not TrialState.DONE or not trial.objectives or trial.short:
            return
        group = self._groups.setdefault(trial.canonical, _Group())
        group.count += 1
        group.total += trial.objectives[0]
        broken = trial.violation or []
        group.broken = [a + b for a, b in zip(group.broken, broken, strict=False)] if group.broken else list(broken)
        if isinstance(trial, MeasuredTrial):
            self._learn(group, trial.figures.get("e2e_mean_ms"))
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

    def _learn(self, group: _Group, took_ms: float | None) -> None:
        """A configuration that was measured again says how far its processes lie apart (Welford's recurrence)."""
        if took_ms is None or took_ms <= 0:
            return
        away = math.log(took_ms) - group.middle
        group.timed += 1
        group.middle += away / group.timed
        if group.timed > 1:
            self._squares += away * away * (group.timed - 1) / group.timed
            self._freedom += 1


def best_so_far(spec: TuningSpec) -> BestSoFar | None:
    """None for a job whose trials are all measured in full."""
    return None if short_requests(spec) is None else BestSoFar(spec)
