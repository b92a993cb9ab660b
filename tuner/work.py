"""One trial worked on: leased, kept while it is measured, told. The same in a worker of the cluster and on a laptop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.model.errors import Refused
from controlplane.model.ports import STORE_DOWN, StopSignal, TrialQueue, TrialRunner, TrialStore
from controlplane.model.tuning import LeasedTrial, Outcome, Verdict
from controlplane.model.tuning_job import TuningSpec
from tuner.watch import Watch

log = logging.getLogger(__name__)

# A runner ends its attempt itself at the job's time limit, of which it has one for waiting and one for measuring; one that
# does not is stopped this much later.
_GRACE_S = 30.0
# One that was told to stop and hangs keeps its trial for so much longer: then the lease runs out, and another worker gets it.
_DEAF_S = 120.0
# One that hangs for so long, in its runner or in telling, will not end: its process has to (`tuner.watch`).
_LATE_S = 180.0
_MEASURE, _STOP, _TELL = "be measured", "stop", "be told"
# A measurement of many minutes is not thrown away because the database restarts.
_TELL_FOR_S = 900.0
_TELL_EVERY_S = 2.0
_SPECS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """`lease_s`: how long a worker may be silent; it renews three times as often, and a cancelled job is heard of at a
    renewal. `now` is the store's time, waits are this machine's. `stopping`: set when this process is told to end; the
    trial under way is then put back at once, without an attempt lost, and no other is taken. `watch`: hears what is under
    way and until when."""

    store: TrialStore
    runner: TrialRunner
    queue: TrialQueue
    owner: str
    now: Callable[[], datetime]
    lease_s: float = 30.0
    stopping: StopSignal = field(default_factory=threading.Event)
    watch: Watch = field(default_factory=Watch)
    _specs: dict[str, TuningSpec] = field(default_factory=dict)

    def on(self, trial: str) -> bool:
        """Measure the trial if it is to be had. False: somebody else has it, or there is nothing to do."""
        if self.stopping.is_set():
            return False
        leased = self.store.lease(trial, owner=self.owner, seconds=self.lease_s, now=self.now())
        if leased is None:
            return False
        spec = self._spec(leased.job)
        most_s = longest_s(spec) + _GRACE_S
        self.watch.expect(trial, _MEASURE, most_s + _LATE_S)
        try:
            with _Keeper(self, leased, most_s) as keeper:
                outcome = self._measured(leased, spec, keeper)
                keeper.measured = True
                self.watch.expect(trial, _TELL, _TELL_FOR_S + _LATE_S)
                told = not keeper.taken and self._tell(leased, outcome, keeper)
        finally:
            self.watch.over(trial)
        if told:
            self.queue.job(leased.job)
            if outcome.waited:
                self.queue.trial(trial)  # behind what waits already, and no later than that
        else:
            log.warning("trial %s attempt %d: the lease had passed on, its result is dropped", trial, leased.attempt)
        return told

    def _spec(self, job: str) -> TuningSpec:
        """A job's spec never changes."""
        if job not in self._specs:
            if len(self._specs) >= _SPECS_MAX:
                self._specs.clear()
            self._specs[job] = self.store.spec(job)
        return self._specs[job]

    def _measured(self, leased: LeasedTrial, spec: TuningSpec, keeper: _Keeper) -> Outcome:
        try:
            outcome = self.runner.run(leased, spec, stop=_Either(keeper.stop, self.stopping))
        except Exception as error:
            log.exception("trial %s attempt %d: the runner failed", leased.id, leased.attempt)
            reason = f"the runner failed: {type(error).__name__}: {error}"
            return Outcome(verdict=Verdict.INFRASTRUCTURE, reason=reason[:4096])
        if keeper.why is not None and outcome.verdict is not Verdict.OK:
            return Outcome(verdict=Verdict.INFRASTRUCTURE, reason=keeper.why)
        if self.stopping.is_set() and outcome.verdict not in {Verdict.OK, Verdict.INFEASIBLE}:
            return Outcome(verdict=Verdict.INFRASTRUCTURE, reason="its worker was told to end", interrupted=True)
        return outcome

    def _tell(self, leased: LeasedTrial, outcome: Outcome, keeper: _Keeper) -> bool:
        until = time.monotonic() + _TELL_FOR_S
        while True:
            try:
                return self.store.tell(leased, outcome, now=self.now())
            except Refused as refused:
                if refused.reason not in STORE_DOWN or keeper.taken or time.monotonic() >= until:
                    raise
                log.warning("trial %s: %s; told again in %g s", leased.id, refused, _TELL_EVERY_S)
                time.sleep(_TELL_EVERY_S)


def longest_s(spec: TuningSpec) -> float:
    """What an attempt may take by its own time limits: one to wait in and one to measure in. Where answers are compared,
    both for the configuration in use, and one more wait where its hardware turns out to be another."""
    compared = spec.space is not None and any(one.changes_output for one in spec.space.parameters)
    return (5 if compared else 2) * spec.measuring.timeout_s


class _Either:
    """Set when either is. Waits at most a quarter of a second at a time: callers poll."""

    def __init__(self, one: StopSignal, other: StopSignal) -> None:
        self._one, self._other = one, other

    def is_set(self) -> bool:
        return self._one.is_set() or self._other.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        self._one.wait(min(0.25, 0.25 if timeout is None else timeout))
        return self.is_set()


@dataclass(slots=True, eq=False)
class _Keeper:
    """Renews a lease from a thread until the block ends. Sets `stop` when the trial is no longer ours, was cancelled,
    took too long, or when renewals failed for as long as the lease lasts: then somebody else may have begun."""

    work: Work
    leased: LeasedTrial
    most_s: float
    stop: threading.Event = field(default_factory=threading.Event)
    taken: bool = False
    why: str | None = None
    measured: bool = False
    _told_s: float | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> _Keeper:
        self._thread = threading.Thread(target=self._keep, name=f"keep {self.leased.id}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _keep(self) -> None:
        began = renewed = time.monotonic()
        while not self._over.wait(self.work.lease_s / 3):
            if not self.stop.is_set() and time.monotonic() - began > self.most_s:
                self._end(f"the attempt took longer than {self.most_s:g} s")
            if self.work.stopping.is_set():
                self.work.watch.hurry(self.leased.id, _MEASURE, _STOP, _LATE_S)
            if self._told_s is not None and not self.measured and time.monotonic() - self._told_s > _DEAF_S:
                log.error("trial %s: its runner does not stop; its lease is kept no longer", self.leased.id)
                return
            try:
                renewal = self.work.store.renew(self.leased, seconds=self.work.lease_s, now=self.work.now())
            except Exception as error:
                log.warning("trial %s: the lease was not renewed: %s", self.leased.id, error)
                if time.monotonic() - renewed >= self.work.lease_s:
                    self._end("the lease could not be renewed")
                continue
            renewed = time.monotonic()
            if not renewal.ours:
                self.taken = True
                self._end("the lease has passed on")
                return
            if renewal.cancelled:
                self._end("the job was cancelled")

    def _end(self, why: str) -> None:
        if self.why is None:
            self.why = why
            self._told_s = time.monotonic()
            self.work.watch.hurry(self.leased.id, _MEASURE, _STOP, _LATE_S)
        self.stop.set()
