"""The loop of tuning jobs: fill up what is under way, end what is over, send again what waits.

Everything it knows is in the store; a driver that dies is rebuilt by the next one, and two at once do no harm: the
trial that comes next can be appended once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from controlplane.model.errors import Refused, TrimtabError
from controlplane.model.ports import STORE_DOWN, Sampler, TrialQueue
from controlplane.model.tuning import JobState, Setting, TrialState
from controlplane.model.tuning_decision import TuningDecision
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask, TrialRecord
from controlplane.store.database import Database
from controlplane.store.rows import split_trial_id, trial_id
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies, StudyHead
from controlplane.store.trials import Trials
from controlplane.store.upkeep import Retention, Upkeep
from tuner.best_so_far import best_so_far
from tuner.study import Study

log = logging.getLogger(__name__)

# A sampler that has nothing left to propose (a grid at its end) says so with this code of Refused.
EXHAUSTED = "SpaceExhausted"
# A trial that still waits is sent again after this long, then after twice as long, up to the most.
_SEND_AGAIN_S = 10.0
_SEND_AGAIN_MOST_S = 300.0


class Closing(Protocol):
    """What follows the search. Pure."""

    def asks(self, spec: TuningSpec, trials: Sequence[TrialRecord]) -> list[Ask]:
        """Trials that are still missing before the decision, in their order."""
        ...

    def decision(self, spec: TuningSpec, trials: Sequence[TrialRecord]) -> TuningDecision:
        """What is handed over when none is missing."""
        ...


@dataclass(frozen=True, slots=True)
class _Driven:
    study: Study
    spec: TuningSpec


@dataclass(slots=True, kw_only=True)
class TuningDriver:
    """`sampler`: of a job's spec and seed. `canonical`: hash of the configuration that a setting resolves to. Without
    `closing` a job ends with its search."""

    database: Database
    queue: TrialQueue
    sampler: Callable[[TuningSpec], Sampler]
    canonical: Callable[[TuningSpec], Callable[[Setting], str]]
    now: Callable[[], datetime]
    closing: Closing | None = None
    retention: Retention = field(default_factory=Retention)
    _studies: dict[str, _Driven] = field(default_factory=dict)
    _sent: dict[str, tuple[datetime, float]] = field(default_factory=dict)

    def step(self, job: str) -> bool:
        """Bring one job forward. False: it does not run."""
        head = Studies(self.database).head(job)
        if head is None or head.state is not JobState.RUNNING:
            self._studies.pop(job, None)
            return False
        try:
            return self._forward(job, head)
        except TrimtabError as error:
            if error.reason in STORE_DOWN:
                raise
            self._end(job, JobState.FAILED, error.reason, str(error))
            return False

    def sweep(self, only: str | None = None) -> list[str]:
        """What a timer does: give up silent workers, send waiting trials again, step every job, remove old rows. The
        jobs that run. `only`: leave other jobs alone."""
        upkeep = Upkeep(self.database)
        now = self.now()
        for trial in upkeep.reap(now=now):
            if only in (None, split_trial_id(trial)[0]):
                self._send(trial, now)
        waiting = [trial for trial in upkeep.waiting() if only in (None, split_trial_id(trial)[0])]
        for trial in waiting:
            at, pause_s = self._sent.get(trial, (now - timedelta(seconds=_SEND_AGAIN_S), _SEND_AGAIN_S))
            if (now - at).total_seconds() >= pause_s or at > now:
                self.queue.trial(trial)
                self._sent[trial] = (now, min(2 * pause_s, _SEND_AGAIN_MOST_S))
        self._sent = {trial: self._sent[trial] for trial in waiting if trial in self._sent}
        running = [
            job
            for job in Studies(self.database).running()
            if only in (None, job) and (self.step(job) if only else self._stepped(job))
        ]
        upkeep.purge(self.retention, now=now)
        return running

    def _stepped(self, job: str) -> bool:
        """Its step; what goes wrong with one job is no reason to leave the others standing."""
        try:
            return self.step(job)
        except TrimtabError:
            raise  # the store is away, for all of them
        except Exception:
            log.exception("tuning job %s cannot be brought forward; it is tried again", job)
            self._studies.pop(job, None)
            return True

    def _forward(self, job: str, head: StudyHead) -> bool:
        studies = Studies(self.database)
        if job not in self._studies:
            spec = Trials(self.database).spec(job)
            best = best_so_far(spec)
            self._studies[job] = _Driven(Study(self.sampler(spec), spec.parallel, self.canonical(spec), best), spec)
        study, spec = self._studies[job].study, self._studies[job].spec
        hours = spec.budget.hours
        study.see(studies.measured_from(job, study.first_open))
        now = self.now()
        too_late = hours is not None and now - head.created_at >= timedelta(hours=hours)
        failing = study.failing()
        if failing is not None and not study.under_way:
            self._end(job, JobState.PAUSED, "TrialsFail", f"the last trials all failed: {failing}")
            return False
        try:
            asks = [] if too_late or failing is not None else study.asks(head.budget)
        except Refused as refused:
            if refused.reason != EXHAUSTED:
                raise
            asks, exhausted = [], True
        else:
            exhausted = False
        if asks:
            self._append(job, asks, now)
        elif not study.under_way and (exhausted or too_late or study.over(head.budget)):
            reason = EXHAUSTED if exhausted else "BudgetSpent"
            return self._close(
                job,
                spec,
                reason,
                "1 trial was searched" if study.searched == 1 else f"{study.searched} trials were searched",
            )
        return True

    def _close(self, job: str, spec: TuningSpec, reason: str, message: str) -> bool:
        """Ask what the decision needs, or decide and end. False: it does not run any more."""
        if self.closing is not None:
            trials = Studies(self.database).trials_from(job, 0)
            asks = self.closing.asks(spec, trials)[: spec.parallel]
            if asks:
                self._append(job, asks, self.now())
                return True
            decision = self.closing.decision(spec, trials)
            Steering(self.database).decide(job, decision.model_dump(mode="json", by_alias=True), now=self.now())
        self._end(job, JobState.DONE, reason, f"{message}{self._all_lost(job)}")
        return False

    def _all_lost(self, job: str) -> str:
        """Why nothing was measured, of a job too short to be paused for it."""
        trials = Studies(self.database).trials_from(job, 0)
        if not trials or any(one.state not in {TrialState.FAILED, TrialState.INFEASIBLE} for one in trials):
            return ""
        return f", none worked: {trials[-1].reason}"

    def _append(self, job: str, asks: Sequence[Ask], now: datetime) -> None:
        if not Studies(self.database).append(job, asks, now=now):
            del self._studies[job]
            return  # paused, or another driver was first: the next step begins with what is stored
        for ask in asks:
            self._send(trial_id(job, ask.number), now)

    def _send(self, trial: str, now: datetime) -> None:
        self.queue.trial(trial)
        self._sent[trial] = (now, _SEND_AGAIN_S)

    def _end(self, job: str, state: JobState, reason: str, message: str) -> None:
        Steering(self.database).end(job, state, reason=reason, message=message, now=self.now())
        self._studies.pop(job, None)
        log.info("tuning job %s: %s (%s)", job, state.value, reason)
