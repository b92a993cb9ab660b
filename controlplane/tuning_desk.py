"""The store as the TuningJob controller sees it: fulfils the port `TuningDesk` for one resource at a time.

A job's id is its resource's uid. So it is found again whatever the resource's status says, and however many operators
ask for it at once, one row is made.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from controlplane.model.errors import InvalidSpec, Refused, UnknownName
from controlplane.model.ports import SUSPENDED
from controlplane.model.serving import ServingDeployment
from controlplane.model.tuning import JobState, TrialPurpose, TrialState
from controlplane.model.tuning_job import DeploymentTarget, TuningSpec
from controlplane.model.tuning_records import SeenJob, TrialRecord, TuningJobRecord
from controlplane.store.database import Database
from controlplane.store.jobs import IdempotencyKey, Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import WAITS
from controlplane.tuning_deployments import completed_on_cluster
from controlplane.tuning_history import with_earlier
from controlplane.tuning_places import Places, check_places
from controlplane.tuning_targets import check_for_cluster, in_namespace

# Where none of so many trials with the best values kept the limits, none is called the best so far.
_LEADERS = 500
_REMEMBERED = 4096
_OVER = "WrongState"


def checking(
    deployment: Callable[[str, str], ServingDeployment | None], places: Places | None = None
) -> Callable[[TuningSpec, str], TuningSpec]:
    """What is stored of a resource's spec, which raises UnknownName, InvalidSpec, Unsupported, or Refused for a
    deployment that has no plan yet. A deployment is one of the job's own namespace. `places` None: no cluster is known."""

    def check(spec: TuningSpec, namespace: str) -> TuningSpec:
        spec = in_namespace(spec, namespace)
        check_for_cluster(spec, namespace)
        if places is not None:
            check_places(spec, namespace, places)
        found = None
        if isinstance(spec.target, DeploymentTarget):
            found = deployment(namespace, spec.target.name)
            if found is None:
                raise InvalidSpec(
                    "there is no such ServingDeployment", field="target.name", value=spec.target.name,
                    hint=f"make it in namespace {namespace}, or name another",
                )  # fmt: skip
        return completed_on_cluster(spec, found)

    return check


def checked(spec: TuningSpec, namespace: str) -> TuningSpec:
    """Where no deployment is known."""
    return checking(lambda _namespace, _name: None)(spec, namespace)


@dataclass(slots=True)
class StoreDesk:
    """Thread-safe. `check` judges a spec and writes out its space."""

    database: Database
    check: Callable[[TuningSpec, str], TuningSpec] = checked
    _leaders: OrderedDict[str, tuple[int, TrialRecord | None]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _migrated: bool = False

    def open(self, uid: str, *, tenant: str, name: str, spec: TuningSpec) -> None:
        self._ready()
        # The uid stands for the whole resource: its budget may have been raised since the first try.
        key = IdempotencyKey(f"resource:{uid}", hashlib.sha256(uid.encode()).hexdigest())
        spec = with_earlier(self.database, tenant, self.check(spec, tenant))
        Jobs(self.database).create(uid, tenant=tenant, name=name, spec=spec, now=self.database.now(), idempotency=key)

    def look(self, uid: str) -> SeenJob | None:
        self._ready()
        try:
            record = Studies(self.database).with_progress(Jobs(self.database).get(uid))
        except UnknownName:
            with self._lock:
                self._leaders.pop(uid, None)
            return None
        leader = self._leader(record) if record.decision is None and record.counts.done else None
        return SeenJob(record=record, leader=leader, waiting=self._waiting(record))

    def pause(self, uid: str) -> None:
        self._steer(lambda steering: steering.pause(uid, now=self.database.now(), reason=SUSPENDED))

    def resume(self, uid: str) -> None:
        self._steer(lambda steering: steering.resume(uid, now=self.database.now()))

    def extend(self, uid: str, trials: int) -> None:
        if Jobs(self.database).get(uid).budget < trials:
            self._steer(lambda steering: steering.extend(uid, trials=trials, now=self.database.now()))

    def cancel(self, uid: str) -> None:
        self._steer(lambda steering: steering.cancel(uid, now=self.database.now()))

    def delete(self, uid: str) -> None:
        self._steer(lambda steering: steering.delete(uid, now=self.database.now()))

    def _steer(self, act: Callable[[Steering], object]) -> None:
        """A job that has ended or gone meanwhile is left as it is: the next look sees it."""
        try:
            act(Steering(self.database))
        except UnknownName:
            return
        except Refused as refused:
            if refused.reason != _OVER:
                raise

    def _ready(self) -> None:
        """The tables are made by whoever comes first; the database may be away when this process starts."""
        if not self._migrated:
            upgrade(self.database)
            self._migrated = True

    def _waiting(self, record: TuningJobRecord) -> TrialRecord | None:
        """Asked only where none is measured: nobody took it, or whoever did finds no hardware."""
        counts = record.counts
        if record.state is not JobState.RUNNING or (counts.leased and record.reason != WAITS):
            return None
        state = TrialState.LEASED if counts.leased else TrialState.WAITING
        oldest = (
            Studies(self.database).page(record.id, states=[state], limit=1) if counts.leased or counts.waiting else []
        )
        return oldest[0] if oldest else None

    def _leader(self, record: TuningJobRecord) -> TrialRecord | None:
        """Read again only after another trial was measured."""
        with self._lock:
            known = self._leaders.get(record.id)
        if known is not None and known[0] == record.counts.done:
            return known[1]
        order: Literal["value", "-value"] = "-value" if record.spec.objectives[0].direction == "maximize" else "value"
        found: TrialRecord | None = None
        for limit, offset in ((20, 0), (_LEADERS - 20, 20)):
            page = Studies(self.database).page(
                record.id, states=[TrialState.DONE], order=order, limit=limit, offset=offset
            )
            found = next((trial for trial in page if _keeps_limits(trial)), None)
            if found is not None or len(page) < limit:
                break
        with self._lock:
            self._leaders[record.id] = (record.counts.done, found)
            self._leaders.move_to_end(record.id)
            while len(self._leaders) > _REMEMBERED:
                self._leaders.popitem(last=False)
        return found


def _keeps_limits(trial: TrialRecord) -> bool:
    kept = all(broken <= 0 for broken in trial.violation or ())
    return kept and bool(trial.objectives) and trial.purpose is TrialPurpose.SEARCH and not trial.short
