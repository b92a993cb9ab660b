"""Ports: what one room needs and another gives. The composition roots fill them in."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from controlplane.model.plans import PlanRequest, ServingPlan
from controlplane.model.tuning import LeasedTrial, Outcome, Proposal, Renewal, Told
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_pods import PodSeen
from controlplane.model.tuning_records import SeenJob


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


# Codes of Refused that say nothing about the trial: the same pod may be made later.
PODS_LATER = frozenset({"ClusterUnreachable", "QuotaExceeded"})


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


class TrialPod(Protocol):
    """The pod of one attempt. `engine`: the catalogue's, `port` and `served_name`: where and by which name it answers;
    empty for a command. `api_key`: what it asks of its clients, empty where it asks nothing."""

    name: str
    engine: str
    port: int
    served_name: str
    api_key: str

    def look(self) -> PodSeen:
        """As it is now. Raises Refused where the cluster cannot be asked: that says nothing about the pod."""
        ...

    def log(self, *, last: bool = True) -> list[str]:
        """Its last lines, or its first. Empty where there are none to be had."""
        ...

    def hardware(self) -> str:
        """Names what it runs on, without the host's name: figures of two of these are not compared."""
        ...

    def end(self) -> None:
        """Tell it to go. Never raises: what cannot be told now is told by the next sweep."""
        ...


class TrialPodLauncher(Protocol):
    """Runs attempts as pods in the namespace of their job."""

    def start(
        self, leased: LeasedTrial, spec: TuningSpec, *, in_use: bool = False, node: str | None = None
    ) -> TrialPod:
        """The pod of this attempt; those of the trial's older attempts are told to go first. Doing it twice makes one
        pod. `in_use`: another pod of the same attempt, with the configuration in use; `node`: there or nowhere. Raises
        TrimtabError: InvalidSpec with a field under `setting` where this setting cannot be started at all, Refused
        with a code of PODS_LATER where it is worth asking again, else for what says nothing about it."""
        ...

    def answering(self, leased: LeasedTrial, spec: TuningSpec) -> str:
        """Names what the answers of the configuration in use follow from, but for the hardware: image, command, model,
        settings. Raises as `start`."""
        ...


class ReferenceStore(Protocol):
    """What configurations in use answered, kept where every worker finds it."""

    def found(self, answering: str) -> dict[str, str]:
        """By the hardware on which they were decoded."""
        ...

    def keep(self, answering: str, hardware: str, text: str, *, now: datetime) -> str:
        """The one that stands: this, or what another worker kept first."""
        ...


class TrialQueue(Protocol):
    """Tells workers that there is something to do. May lose, repeat and delay: the store is the truth."""

    def trial(self, trial: str) -> None:
        """This trial waits."""
        ...

    def job(self, job: str) -> None:
        """Something of this job changed: its driver may have something to ask."""
        ...


# Reason of a pause that a TuningJob resource asked for: what it may resume again.
SUSPENDED = "Suspended"


class TuningDesk(Protocol):
    """The jobs of TuningJob resources, each known by its resource's uid, which is the job's id. Everything asks the store
    and blocks; it raises Refused with a code of STORE_DOWN while that is away. Saying the same twice changes nothing."""

    def open(self, uid: str, *, tenant: str, name: str, spec: TuningSpec) -> None:
        """Make the resource's job, once, however often and by however many it is asked for. Raises UnknownName,
        InvalidSpec or Unsupported for a spec that cannot work, Refused `AlreadyExists` for a name that another job has
        and `IdempotencyGone` for a job that was deleted since."""
        ...

    def look(self, uid: str) -> SeenJob | None:
        """None: there is no such job, or it was deleted."""
        ...

    def pause(self, uid: str) -> None:
        """Give out no more trials, for the reason `SUSPENDED`."""
        ...

    def resume(self, uid: str) -> None:
        """Give out trials again."""
        ...

    def extend(self, uid: str, trials: int) -> None:
        """A budget of `trials` in all."""
        ...

    def cancel(self, uid: str) -> None:
        """End it; trials under way hear of it at their next renewal."""
        ...

    def delete(self, uid: str) -> None:
        """Gone for everybody, its name free; rows go after the store's retention."""
        ...
