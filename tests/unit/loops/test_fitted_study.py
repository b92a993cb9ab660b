"""A driver's study with a fitted simulator: figures come through the store, and the next driver asks the same."""

from __future__ import annotations

from pathlib import Path

from controlplane.loops.tuning import TuningDriver
from controlplane.model.tuning import Measurement, Outcome, Verdict
from controlplane.model.tuning_records import TrialRecord
from controlplane.store.database import Database, open_database
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.tuning_jobs import sampler_of
from tests.unit.store.conftest import NOW
from tests.unit.tuner.search.fitted_engine import FakeEngine, spec_of
from tuner.search.canonical import canonical_of

TRIALS = 5


class Unsent:
    """A queue that nobody reads: trials are ended by hand."""

    def trial(self, trial: str) -> None: ...

    def job(self, job: str) -> None: ...


def studied(database: Database, job: str, *, drivers: int) -> list[TrialRecord]:
    """A job to its last trial, by one driver or a new one for each trial."""
    spec = spec_of(budget={"trials": TRIALS})
    Jobs(database).create(job, tenant="t", name=job, spec=spec, now=NOW)
    engine, trials = FakeEngine(spec), Trials(database)

    def made() -> TuningDriver:
        return TuningDriver(
            database=database, queue=Unsent(), sampler=sampler_of, canonical=canonical_of, now=lambda: NOW
        )

    driver = made()
    for number in range(TRIALS):
        driver.step(job)
        leased = trials.lease(f"{job}/{number}", owner="w", seconds=30.0, now=NOW)
        assert leased is not None
        told = engine.told(number, leased.setting)
        metrics = {**told.figures, "goodput_per_s": told.values[0], "energy_j": None}
        measured = Measurement(metrics=metrics, definitions="trimtab-1", duration_s=1.0, seed=leased.seed)
        assert trials.tell(leased, Outcome(verdict=Verdict.OK, measurement=measured), now=NOW)
        driver = made() if drivers > 1 else driver
    return Studies(database).trials_from(job, 0)


def test_each_driver_asks_what_the_last_would_have(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/x.db")
    upgrade(database)
    one, many = studied(database, "one", drivers=1), studied(database, "many", drivers=TRIALS)
    database.close()
    assert [(trial.setting, trial.why) for trial in one] == [(trial.setting, trial.why) for trial in many]
    assert one[1].why.endswith("a simulator fitted to 1 trial")
    assert "a simulator fitted to 2 trials, off by " in one[2].why
