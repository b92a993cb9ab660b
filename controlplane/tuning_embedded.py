"""Tuning on this machine with no server: a state directory with a database, one process that drives and measures.

Trials run as the local user. A job that was interrupted, however hard, goes on where it was: every step is in the
database, and a file lock says whether some process works on it now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from controlplane.loops.tuning import TuningDriver
from controlplane.loops.tuning_runs import run_job
from controlplane.model.errors import InvalidSpec, Refused, UnknownName
from controlplane.model.ports import StopSignal, TrialRunner
from controlplane.model.tuning_records import TuningJobRecord
from controlplane.store.database import Database, open_database
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.tuning_jobs import Confirmation, sampler_of
from controlplane.tuning_names import job_among
from tuner.embedded import LocalQueue
from tuner.measure.engine.launch import Launcher, embedded, vllm
from tuner.search.canonical import canonical_of
from tuner.watch import ended_when_late
from tuner.work import Work

TENANT = "local"
# A trial left behind by a killed process is taken up this much later.
_LEASE_S = 10.0
_ENGINE_SOURCE = Path(__file__).resolve().parents[1] / "engines" / "openvino"


@dataclass(frozen=True, slots=True)
class LocalTuning:
    """A state directory opened."""

    folder: Path
    database: Database

    @property
    def jobs(self) -> Jobs:
        return Jobs(self.database)

    @property
    def studies(self) -> Studies:
        return Studies(self.database)

    @property
    def steering(self) -> Steering:
        return Steering(self.database)

    @property
    def events(self) -> EventLog:
        return EventLog(self.database)

    def find(self, word: str) -> TuningJobRecord:
        """A job by its id, its name, or how its id begins. Raises UnknownName."""
        try:
            return self.jobs.get(word)
        except UnknownName:
            named = self.jobs.named(TENANT, word)
        return named or job_among(word, self.jobs.list(tenants=[TENANT], limit=500), str(self.folder))

    def run(self, job: str, runner: TrialRunner, *, until: Callable[[], bool], stopping: StopSignal) -> None:
        """Drive and measure one job until it has ended or `until` says so; `stopping` ends the trials under way. Raises
        Refused while another process does."""
        spec = Trials(self.database).spec(job)
        with self._alone(job):
            queue = LocalQueue(lambda trial: work.on(trial), parallel=spec.parallel)  # noqa: PLW0108 - made below
            owner = f"{os.uname().nodename}:{os.getpid()}"
            work = Work(
                store=Trials(self.database), runner=runner, queue=queue, owner=owner, now=utc_now, lease_s=_LEASE_S,
                stopping=stopping,
            )  # fmt: skip
            driver = TuningDriver(
                database=self.database,
                queue=queue,
                sampler=sampler_of,
                canonical=canonical_of,
                now=utc_now,
                closing=Confirmation(),
            )
            with ended_when_late(work.watch):
                try:
                    run_job(driver, queue, job, until=until)
                finally:
                    queue.close()

    @contextlib.contextmanager
    def _alone(self, job: str) -> Iterator[None]:
        path = self.folder / f"{job}.lock"
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(
                    "another process works on this job",
                    field="job",
                    value=job,
                    hint="follow it with `trimtab tune show`, or end it first",
                    code="Busy",
                ) from None
            yield


@contextlib.contextmanager
def local_tuning(folder: Path) -> Iterator[LocalTuning]:
    """Open a state directory, made where it is absent. Raises InvalidSpec where it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSpec(f"cannot be made: {error.strerror}", field="state-dir", value=str(folder)) from error
    database = open_database(f"sqlite:///{folder / 'tuning.db'}")
    try:
        upgrade(database)
        yield LocalTuning(folder, database)
    finally:
        database.close()


def state_folder(env: Mapping[str, str]) -> Path:
    """Where jobs are kept unless told otherwise."""
    given = env.get("TRIMTAB_STATE_DIR")
    if given:
        return Path(given)
    base = env.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return Path(base) / "trimtab"


def launchers(env: Mapping[str, str]) -> dict[str, Launcher]:
    """Engines that can be started here. `TRIMTAB_OPENVINO_PYTHON`, `TRIMTAB_VLLM_PYTHON`, `TRIMTAB_VLLM_CPU_PYTHON`:
    interpreters of their environments; the embedded engine is also found beside this package."""
    out: dict[str, Launcher] = {}
    cache = Path(env.get("TRIMTAB_CACHE") or Path("~/.cache/trimtab").expanduser())
    made = cache / "engine-venv" / "bin" / "python"
    given = env.get("TRIMTAB_OPENVINO_PYTHON")
    if given or made.is_file():
        out["openvino"] = embedded(given or str(made), str(_ENGINE_SOURCE) if _ENGINE_SOURCE.is_dir() else "")
    elif find_spec("trimtab_engine") is not None:
        out["openvino"] = embedded(sys.executable, "")
    if env.get("TRIMTAB_VLLM_CPU_PYTHON"):
        out["vllm"] = vllm(env["TRIMTAB_VLLM_CPU_PYTHON"], cpu=True)
    if env.get("TRIMTAB_VLLM_PYTHON"):
        out["vllm"] = vllm(env["TRIMTAB_VLLM_PYTHON"])
    return out


def utc_now() -> datetime:
    return datetime.now(UTC)
