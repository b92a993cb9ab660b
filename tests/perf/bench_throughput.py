"""A study near its 10,000th trial: how many asks and tells per second, and how long a list takes.

One process, SQLite, random sampler; each turn is a driver's step (read what ended, ask, append), a lease and a tell.
The rate is that of the last 1,000 trials. `list_ms`: median over pages of 50 trials (by number, by value, by state) and
of jobs, on the same store.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from controlplane.loops.tuning import TuningDriver
from controlplane.model.tuning import LeasedTrial, TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.store.database import Database, open_database
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.testing.null_runner import NullRunner, digest_of
from tests.perf.bench_trial_overhead import spec_of, utc_now
from tests.perf.report import Emit, Figure, from_samples
from tuner.search.question import Question
from tuner.search.samplers.random import RandomSampler
from tuner.search.space import compile_space

TRIALS = 10_000
MEASURED = 1000
LISTS = 50


class _Latest:
    """A queue that keeps what was sent last."""

    def __init__(self) -> None:
        self.latest = ""

    def trial(self, trial: str) -> None:
        self.latest = trial

    def job(self, job: str) -> None: ...


class _Never:
    def is_set(self) -> bool:
        return False

    def wait(self, timeout: float | None = None) -> bool:
        return False


def run(emit: Emit) -> None:
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as folder:
        database = open_database(f"sqlite:///{Path(folder) / 'trimtab.db'}")
        upgrade(database)
        Jobs(database).create("j", tenant="bench", name="j", spec=spec_of(TRIALS, 1), now=utc_now())
        rate = _ask_and_tell(database)
        emit(Figure("throughput", "ask_tell_per_s", rate, "1/s", 50.0, "higher", MEASURED))
        emit(from_samples("throughput", "list_ms", _lists_ms(database), "ms", 50.0, "lower"))
        database.close()


def _ask_and_tell(database: Database) -> float:
    queue, store, runner = _Latest(), Trials(database), NullRunner()
    driver = TuningDriver(
        database=database, queue=queue, sampler=_random, canonical=lambda spec: digest_of, now=utc_now
    )
    spec = store.spec("j")
    began = time.perf_counter()
    for number in range(TRIALS):
        if number == TRIALS - MEASURED:
            began = time.perf_counter()
        driver.step("j")
        leased = store.lease(queue.latest, owner="bench", seconds=30.0, now=utc_now())
        if not isinstance(leased, LeasedTrial) or leased.number != number:
            raise RuntimeError(f"trial {number} was not to be had: {queue.latest}")
        if not store.tell(leased, runner.run(leased, spec, stop=_Never()), now=utc_now()):
            raise RuntimeError(f"trial {number} was not told")
    return MEASURED / (time.perf_counter() - began)


def _random(spec: TuningSpec) -> RandomSampler:
    assert spec.space is not None
    return RandomSampler(Question(space=compile_space(spec.space), objectives=tuple(spec.objectives), seed=spec.seed))


def _lists_ms(database: Database) -> list[float]:
    studies, jobs = Studies(database), Jobs(database)
    out = []
    for i in range(LISTS):
        for act in (
            lambda: studies.page("j", limit=50, offset=190 * i),  # noqa: B023
            lambda: studies.page("j", order="-value", limit=50, offset=190 * i),  # noqa: B023
            lambda: studies.page("j", states=[TrialState.DONE], limit=50),
            lambda: jobs.list(limit=50),
        ):
            began = time.perf_counter()
            act()
            out.append((time.perf_counter() - began) * 1e3)
    return out
