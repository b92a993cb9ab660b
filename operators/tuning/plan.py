"""What to do next about one TuningJob: a pure function of the resource and of the job the store has for it.

The store is the truth about the job, the resource about what is wanted: suspend, a larger budget, deletion. Every action
may be repeated, and the next plan is made from what is found then, so that an operator may die between any two.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from controlplane.model.ports import SUSPENDED
from controlplane.model.tuning import JobState
from controlplane.model.tuning_records import SeenJob
from controlplane.model.tuning_resource import TUNING_FINALIZER
from operators.tuning.row import Read, TuningRow, moment

# A trial under way hears of a cancelled job at its next renewal (10 s); a silent worker's lease runs out after 30 s, and
# is given up by the next sweep. Whoever has not answered by then has no say.
LEAVE_AFTER_S = 90.0

Kind = Literal["claim", "open", "pause", "resume", "extend", "cancel", "delete", "release"]
OPEN_STATES = (JobState.RUNNING, JobState.PAUSED)


@dataclass(frozen=True, slots=True)
class Action:
    """`claim` and `release` set and take the finalizer; all others are the desk's. `trials`: of `extend`."""

    kind: Kind
    trials: int = 0


@dataclass(frozen=True, slots=True)
class Sight:
    """`seen` None: the store has no job of this resource. `store` False: the installation has no database."""

    row: TuningRow
    read: Read
    seen: SeenJob | None
    store: bool
    now: datetime


def plan(sight: Sight) -> list[Action]:
    """In this order; look again after any of them that is the desk's."""
    row, read, seen = sight.row, sight.read, sight.seen
    claimed = TUNING_FINALIZER in row.finalizers
    if row.deleting is not None:
        return _leave(sight) if claimed else []
    if not sight.store or read.spec is None:
        return []
    claim = [] if claimed else [Action("claim")]
    if seen is None:
        begun = read.job_id is not None  # deleted since by somebody else: it is not made anew
        return [] if begun or read.spec.suspend else [*claim, Action("open")]
    record, actions = seen.record, claim
    if read.spec.suspend:
        return [*actions, Action("pause")] if record.state is JobState.RUNNING else actions
    wanted = read.spec.budget.trials
    if record.budget < wanted and record.state in (*OPEN_STATES, JobState.DONE):
        actions = [*actions, Action("extend", wanted)]
    ours = record.reason == SUSPENDED or read.suspended
    if record.state is JobState.PAUSED and ours:
        actions = [*actions, Action("resume")]
    return actions


def leaving_late(row: TuningRow, now: datetime) -> bool:
    """Whether trials under way have had their time to end."""
    since = moment(row.deleting)
    return since is not None and now - since >= timedelta(seconds=LEAVE_AFTER_S)


def _leave(sight: Sight) -> list[Action]:
    seen = sight.seen
    if not sight.store or seen is None:
        return [Action("release")]
    if seen.record.state in OPEN_STATES:
        return [Action("cancel")]
    if seen.record.counts.leased and not leaving_late(sight.row, sight.now):
        return []
    return [Action("delete"), Action("release")]
