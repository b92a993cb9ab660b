"""Jobs of a state directory on this machine: fulfils `JobPlace`."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from controlplane.cli.tune_place import JOBS_MAX, Order
from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.tuning import JobState, TrialState
from controlplane.model.tuning_check import SpaceCheck
from controlplane.model.tuning_decision import TuningDecision
from controlplane.model.tuning_job import EngineTarget, TuningSpec
from controlplane.model.tuning_records import MeasuredAttempt, TrialRecord, TuningEvent, TuningJobRecord
from controlplane.tuning_check import space_check
from controlplane.tuning_embedded import TENANT, LocalTuning, launchers, utc_now
from controlplane.tuning_files import bundle_of, decision_of, report_of
from controlplane.tuning_history import with_earlier
from controlplane.tuning_jobs import completed


class LocalJobs:
    """Trials run as the local user, in `trimtab tune run`."""

    remote = False

    def __init__(self, local: LocalTuning, options: str = "") -> None:
        self.local = local
        self.where, self.options = str(local.folder), options

    def jobs(self, states: Sequence[JobState] = ()) -> list[TuningJobRecord]:
        return self.local.jobs.list(tenants=[TENANT], states=states, limit=JOBS_MAX)

    def find(self, word: str) -> TuningJobRecord:
        return self._whole(self.local.find(word))

    def get(self, job: str) -> TuningJobRecord:
        return self._whole(self.local.jobs.get(job))

    def create(self, name: str, spec: TuningSpec) -> TuningJobRecord:
        from tuner.measure.machine import fingerprint  # noqa: PLC0415

        spec = on_this_machine(completed(spec, cores=len(os.sched_getaffinity(0))))
        spec = with_earlier(self.local.database, TENANT, spec, host=fingerprint())
        job = secrets.token_hex(6)
        made, _ = self.local.jobs.create(job, tenant=TENANT, name=name, spec=spec, now=utc_now())
        return made

    def check(self, spec: TuningSpec) -> SpaceCheck:
        return space_check(spec, lambda one: completed(one, cores=len(os.sched_getaffinity(0))))

    def clone(self, job: str, name: str) -> TuningJobRecord:
        return self.local.jobs.clone(job, secrets.token_hex(6), name=name, now=utc_now())

    def pause(self, job: str) -> TuningJobRecord:
        return self.local.steering.pause(job, now=utc_now())

    def resume(self, job: str) -> TuningJobRecord:
        return self.local.steering.resume(job, now=utc_now())

    def cancel(self, job: str) -> TuningJobRecord:
        return self.local.steering.cancel(job, now=utc_now())

    def extend(self, job: str, trials: int) -> TuningJobRecord:
        return self.local.steering.extend(job, trials=trials, now=utc_now())

    def delete(self, job: str) -> None:
        self.local.steering.delete(job, now=utc_now())

    def trials(
        self, job: str, *, states: Sequence[TrialState] = (), order: Order = "number", limit: int = 100, offset: int = 0
    ) -> list[TrialRecord]:
        return self.local.studies.page(job, states=states, order=order, limit=limit, offset=offset)

    def trial(self, job: str, number: int) -> tuple[TrialRecord, list[MeasuredAttempt]]:
        return self.local.studies.trial(job, number), self.local.studies.measured(job, number=number)

    def decision(self, record: TuningJobRecord) -> TuningDecision:
        return decision_of(self.local.database, record)

    def report(self, record: TuningJobRecord) -> str:
        return report_of(self.local.database, record)

    def bundle(self, record: TuningJobRecord) -> bytes:
        return bundle_of(self.local.database, record)

    def happened(self, job: str, after: int, wait_s: float) -> tuple[list[TuningEvent], str | None]:
        found = self.local.events.after(job, after)
        if not found and wait_s > 0:
            time.sleep(wait_s)
            found = self.local.events.after(job, after)
        return found, None

    def _whole(self, record: TuningJobRecord) -> TuningJobRecord:
        return self.local.studies.with_progress(record)


def on_this_machine(spec: TuningSpec) -> TuningSpec:
    """Raises InvalidSpec or Unsupported for what cannot be started here."""
    if not isinstance(spec.target, EngineTarget):
        return spec
    _check_energy(spec)
    if spec.target.engine not in launchers(os.environ):
        name = spec.target.engine.upper().replace("-", "_")
        raise Unsupported(
            f"{spec.target.engine} is not installed here",
            field="target.engine",
            value=spec.target.engine,
            limit=", ".join(sorted(launchers(os.environ))) or "none is",
            hint=f"name the Python of its environment: TRIMTAB_{name}_PYTHON",
        )
    if spec.target.engine == "openvino" and not Path(spec.target.model).exists():
        raise InvalidSpec(
            "no such file or folder",
            field="target.model",
            value=spec.target.model,
            hint="a GGUF file, or a model folder",
        )
    if not Path(spec.target.model).exists():
        return spec
    target = spec.target.model_copy(update={"model": str(Path(spec.target.model).resolve())})
    return spec.model_copy(update={"target": target})


def _check_energy(spec: TuningSpec) -> None:
    """Raises Unsupported where a metric of energy is wanted and nothing here counts it."""
    from tuner.measure.energy import METRICS, EnergyMeter  # noqa: PLC0415

    wanted = [(f"objectives[{i}].metric", one.metric) for i, one in enumerate(spec.objectives)]
    wanted += [(f"limits[{i}].metric", one.metric) for i, one in enumerate(spec.limits)]
    for field, metric in wanted:
        why = EnergyMeter().why_not() if metric in METRICS else None
        if why is not None:
            raise Unsupported(
                f"cannot be measured here: {why}", field=field, value=metric, hint="tune for tokens per second instead"
            )
