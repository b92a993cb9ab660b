"""What a trial costs beside its measurement and its ask: 1,000 trials that measure nothing, random sampler.

`cluster_ms`: PostgreSQL, Redis, a driver and 4 workers as processes of this machine, 4 trials at a time. `embedded_ms`:
one process, SQLite, one trial at a time. Wall time over trials, from the first ask to the end of the job.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from controlplane.loops.tuning import TuningDriver
from controlplane.loops.tuning_runs import run_job
from controlplane.model.tuning import JobState
from controlplane.model.tuning_job import TuningSpec
from controlplane.store.database import open_database
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.trials import Trials
from controlplane.testing.null_runner import NullRunner, NullSampler, digest_of
from tests.perf.report import Emit, Figure
from tests.perf.tuning_cluster import cluster, wait_until
from tests.servers import ServerMissing
from tuner.embedded import LocalQueue
from tuner.work import Work

TRIALS = 1000
WORKERS = 4
_LONGEST_S = 300.0


def run(emit: Emit) -> None:
    emit(Figure("trial-overhead", "embedded_ms", embedded_ms(TRIALS), "ms", 10.0, "lower", TRIALS))
    try:
        found = cluster_ms(TRIALS)
    except ServerMissing as missing:
        sys.stderr.write(f"cluster_ms not measured: {missing}\n")
        return
    emit(Figure("trial-overhead", "cluster_ms", found, "ms", 20.0, "lower", TRIALS))


def spec_of(trials: int, parallel: int, attempts: int = 3) -> TuningSpec:
    """A job of null trials."""
    return TuningSpec.model_validate(
        {
            "target": {"kind": "command", "command": ["true"]},
            "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 1_000_000}]},
            "objectives": [{"metric": "value"}],
            "budget": {"trials": trials},
            "measuring": {"attempts": attempts},
            "parallel": parallel,
        }
    )


def utc_now() -> datetime:
    return datetime.now(UTC)


def embedded_ms(trials: int) -> float:
    """Service time per trial in one process."""
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as folder:
        database = open_database(f"sqlite:///{Path(folder) / 'trimtab.db'}")
        upgrade(database)
        Jobs(database).create("j", tenant="bench", name="bench", spec=spec_of(trials, 1), now=utc_now())
        store = Trials(database)
        queue = LocalQueue(lambda trial: work.on(trial), parallel=1)
        work = Work(store=store, runner=NullRunner(), queue=queue, owner="bench", now=utc_now)
        driver = TuningDriver(
            database=database,
            queue=queue,
            sampler=lambda spec: NullSampler(spec.seed),
            canonical=lambda spec: digest_of,
            now=utc_now,
        )
        began = time.perf_counter()
        run_job(driver, queue, "j")
        spent_ms = (time.perf_counter() - began) * 1e3
        queue.close()
        _all_done(Jobs(database), trials)
        database.close()
    return spent_ms / trials


def cluster_ms(trials: int) -> float:
    """Service time per trial in the cluster's processes. Workers have started and worked before the clock does."""
    with cluster(WORKERS) as here:
        jobs = Jobs(here.database)
        for name, n in (("warm", 40), ("j", trials)):
            began = time.perf_counter()
            made, _ = jobs.create(name, tenant="bench", name=name, spec=spec_of(n, WORKERS), now=utc_now())
            if not wait_until(lambda job=made.id: jobs.get(job).state is not JobState.RUNNING, _LONGEST_S):  # type: ignore[misc]
                raise RuntimeError(f"not over within {_LONGEST_S:g} s: {jobs.get(name).counts}")
            spent_ms = (time.perf_counter() - began) * 1e3
        _all_done(jobs, trials)
    return spent_ms / trials


def _all_done(jobs: Jobs, trials: int) -> None:
    found = jobs.get("j")
    if found.state is not JobState.DONE or found.counts.done != trials:
        raise RuntimeError(f"the job is {found.state}: {found.message}, {found.counts}")
