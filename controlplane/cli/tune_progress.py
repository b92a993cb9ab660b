"""How far a tuning job is: its bar, how long it will still take, and its best so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

from controlplane.model.tuning import TrialPurpose, TrialState
from controlplane.model.tuning_job import CommandTarget

if TYPE_CHECKING:
    from controlplane.cli.tune_place import JobPlace, Order
    from controlplane.model.tuning_records import TrialRecord, TuningJobRecord

_BAR = 20
# Trials with the best values that are looked at for one that kept the limits.
_LEADERS = 100


@dataclass(frozen=True, slots=True)
class Pace:
    """`each_s`: from one ended trial to the next, None where none has ended. Trials that run side by side count once."""

    each_s: float | None

    @classmethod
    def of(cls, recent: Sequence[TrialRecord]) -> Self:
        """Of the newest trials: a pause before them does not count, a search that gets faster does."""
        ended = sorted(
            (one for one in recent if one.ended_at and one.leased_at), key=lambda one: one.ended_at or _NEVER
        )
        if not ended:
            return cls(None)
        first, last = ended[0], ended[-1]
        assert first.leased_at is not None
        assert last.ended_at is not None
        return cls((last.ended_at - first.leased_at).total_seconds() / len(ended))

    def left_text(self, job: TuningJobRecord, *, now: datetime | None = None) -> str:
        """Nothing where it is not known, or where nothing is left."""
        if self.each_s is None or job.progress is None or job.state.value != "running":
            return ""
        search = max(0, job.budget - job.progress.search_ended)
        if job.progress.confirm_asked > job.progress.confirm_ended or (not search and job.progress.confirm_asked):
            left = _confirms_most(job) - job.progress.confirm_ended
            return f"at most {_time(self.each_s * left)} left" if left > 0 else ""
        seconds = self.each_s * search
        if job.spec.budget.hours is not None:
            over = job.created_at + timedelta(hours=job.spec.budget.hours)
            seconds = min(seconds, max(0.0, (over - (now or datetime.now(UTC))).total_seconds()))
        confirm = f"at most {_confirms_most(job)} runs to confirm"
        return f"about {_time(seconds)} left, then {confirm}" if search else confirm


_NEVER = datetime.max.replace(tzinfo=UTC)


def _confirms_most(job: TuningJobRecord) -> int:
    """Rounds of the best and of the configuration in use."""
    measuring = job.spec.measuring
    beside = 0 if isinstance(job.spec.target, CommandTarget) and not job.spec.baseline else 1
    return (min(measuring.confirm_top, job.budget) + beside) * measuring.confirm_runs


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def bar(job: TuningJobRecord) -> str:
    """Of the search."""
    ended = 0 if job.progress is None else job.progress.search_ended
    full = min(_BAR, _BAR * ended // max(1, job.budget))
    return f"[{'#' * full}{'.' * (_BAR - full)}]"


def best_first(place: JobPlace, job: TuningJobRecord) -> TrialRecord | None:
    """The search trial with the best first objective that kept every limit."""
    order: Order = "-value" if job.spec.objectives[0].direction == "maximize" else "value"
    for trial in place.trials(job.id, states=[TrialState.DONE], order=order, limit=_LEADERS):
        kept = not trial.short and not any(broken > 0 for broken in trial.violation or ())
        if trial.purpose is TrialPurpose.SEARCH and kept:
            return trial
    return None
