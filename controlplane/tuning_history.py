"""What earlier jobs found, as points to start a new one with. Recorded in the job when it is made: whoever drives it, now
or after a restart, asks the same."""

from __future__ import annotations

from pathlib import PurePosixPath

from controlplane.model.tuning import JobState
from controlplane.model.tuning_decision import Comparison
from controlplane.model.tuning_job import CommandTarget, DeploymentTarget, EngineTarget, StartPoint, TuningSpec
from controlplane.model.tuning_records import TuningJobRecord
from controlplane.store.database import Database
from controlplane.store.jobs import Jobs
from controlplane.store.studies import Studies
from controlplane.tuning_jobs import space_of
from operators.tuning.best import decided
from tuner.search.study_sampler import EARLIER_MOST, carried_over

# Jobs that are looked at, newest first.
_JOBS_MAX = 100
# Points of earlier jobs take at most this share of the trials.
_SHARE = 0.2
_POINTS_MAX = 8
# Characters of an earlier job's name: an origin has 253 in all.
_NAME_MAX = 200


def with_earlier(database: Database, tenant: str, spec: TuningSpec, *, host: str | None = None) -> TuningSpec:
    """The completed spec with what earlier jobs of this tenant that tuned the same handed over, newest first. `host`: the
    hardware's fingerprint, where it is known before a trial runs; jobs of other hardware are then left out."""
    room = min(EARLIER_MOST, int(spec.budget.trials * _SHARE), _POINTS_MAX - len(spec.start_with))
    if not spec.warm_start or room <= 0:
        return spec
    found = []
    for job in Jobs(database).list(tenants=[tenant], states=[JobState.DONE], limit=_JOBS_MAX):
        decision = decided(job)
        if decision is None or _what(job.spec) != _what(spec):
            continue
        best = decision.best
        if best is not None and (host is None or _measured_on(database, job, best.number) == host):
            found.append(StartPoint(setting=best.setting, origin=_origin(decision.verdict, job.name[:_NAME_MAX])))
    own = [point.setting for point in spec.start_with]
    points = [point for point in carried_over(space_of(spec), found, room + len(own)) if point.setting not in own]
    return spec.model_copy(update={"start_with": [*spec.start_with, *points[:room]]})


def _origin(verdict: Comparison, name: str) -> str:
    """Nobody is told of a gain that the earlier job had no evidence of."""
    if verdict == "no-evidence":
        return f"handed over by job {name}, no evidence of a gain"
    return f"best found by job {name}, worse than what was in use" if verdict == "worse" else f"best of job {name}"


def _what(spec: TuningSpec) -> tuple[str, ...]:
    """What is tuned, on what: equal for jobs whose winners are worth a look."""
    target, place = spec.target, tuple(sorted(spec.pods.pools))
    if isinstance(target, EngineTarget):
        model = target.catalog_model or PurePosixPath(target.model).name
        shape = ",".join(f"{name}={value}" for name, value in sorted(target.shape.items()))
        return ("engine", target.engine, model, shape, target.accelerator or "", *place)
    if isinstance(target, DeploymentTarget):
        return ("deployment", target.namespace or "", target.name, *place)
    assert isinstance(target, CommandTarget)
    return ("command", target.image or "", *target.command, *place)


def _measured_on(database: Database, job: TuningJobRecord, number: int | None) -> str | None:
    if number is None:
        return None
    found = Studies(database).measured(job.id, number=number)
    return found[-1].measurement.host if found else None
