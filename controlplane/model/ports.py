"""Ports: what one room needs and another gives. The composition roots fill them in."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from controlplane.model.plans import PlanRequest, ServingPlan
from controlplane.model.tuning import LeasedTrial, Outcome, Proposal, Renewal, Told
from controlplane.model.tuning_job import TuningSpec


class ServingPlanner(Protocol):
    """Answers planning questions. Pure: the same request gives the same plan."""

    def plan(self, request: PlanRequest, *, progress: Callable[[str, float], None] | None = None) -> ServingPlan:
        """Raises UnknownName, InvalidSpec or Unsupported (nothing fits) with the field at fault. `progress` is told
        what is being done and the share done in [0, 1]."""
        ...


class PlanningService(Protocol):
    """A `ServingPlanner` at arm's length: it computes elsewhere, so that an event loop can wait for it."""

    async def plan(self, request: PlanRequest, *, progress: Callable[[str, float], None] | None = None) -> ServingPlan:
        """Raises what the planner raises, and Refused where it ran out of time or memory or died (`PLANNER_DOWN`).
        Cancelling the call ends the computation."""
        ...

    async def close(self) -> None:
        """End every computation."""
        ...


# Codes of Refused that say nothing about the request: the same one may be answered next time.
PLANNER_DOWN = frozenset({"PlannerTimeout", "PlannerDied"})


# Codes of Refused that say nothing about the call: the store is away, the same call may go through later.
STORE_DOWN = frozenset({"StoreUnreachable", "StoreBusy", "StoreFull", "StoreReadOnly"})


class Sampler(Protocol):
    """Proposes configurations. Rebuilt at any time by telling it a study's trials again in their order: the same
    space, settings, seed and history give the same proposal, in any process."""

    def tell(self, told: Told) -> None:
        """A trial was asked (no verdict yet: it is pending), or its result is known. Telling twice replaces."""
        ...

    def ask(self, number: int) -> Proposal:
        """The configuration of trial `number`. Pending trials count as under way. Cost does not grow with the study."""
        ...


class TrialStore(Protocol):
    """Trials, durable. The database is the truth; a message carries a trial's id and nothing else.

    A lease has an owner, an expiry and a fencing token (`attempt`). Everything that changes a leased trial is one
    conditional update on (trial, attempt): False says that the lease is somebody else's now, and the caller stops.
    """

    def lease(self, trial: str, *, owner: str, seconds: float, now: datetime) -> LeasedTrial | None:
        """Take a waiting trial, or one whose lease ran out. None: nothing to do (taken, final, paused, cancelled)."""
        ...

    def renew(self, leased: LeasedTrial, *, seconds: float, now: datetime) -> Renewal:
        """Keep it. Says whether it is still ours and whether the job was cancelled."""
        ...

    def tell(self, leased: LeasedTrial, outcome: Outcome, *, now: datetime) -> bool:
        """End the attempt. Infrastructure and invalid verdicts put the trial back until its attempts are used up; of a
        cancelled job they end it."""
        ...

    def spec(self, job: str) -> TuningSpec:
        """What the job asks for. Raises UnknownName."""
        ...


class StopSignal(Protocol):
    """Whether an attempt is to end now, without a result: `threading.Event` is one."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class TrialRunner(Protocol):
    """Measures one trial on this machine. Blocks until it is over."""

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        """Whatever goes wrong is an outcome with a verdict and a reason, never an exception. `stop` is polled at least
        once a second: end, leave nothing running, the outcome does not count."""
        ...


class TrialQueue(Protocol):
    """Tells workers that there is something to do. May lose, repeat and delay: the store is the truth."""

    def trial(self, trial: str) -> None:
        """This trial waits."""
        ...

    def job(self, job: str) -> None:
        """Something of this job changed: its driver may have something to ask."""
        ...
