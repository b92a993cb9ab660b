"""Decisions that another version wrote, and bundles of large jobs: neither stands in the way of anything."""

from __future__ import annotations

import io
import tarfile
from datetime import datetime

import pytest

from controlplane import tuning_files
from controlplane.cli.tune_text import ended_text
from controlplane.model.tuning import JobState, Measurement, Outcome, TrialPurpose, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask
from controlplane.store.database import Database
from controlplane.store.jobs import Jobs
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.tuning_files import bundle_of, decision_of
from controlplane.tuning_history import with_earlier


def test_a_decision_of_another_version_hinders_nobody(database: Database, spec: TuningSpec, now: datetime) -> None:
    Jobs(database).create("j", tenant="t", name="n", spec=spec, now=now)
    Steering(database).decide("j", {"verdict": "later", "written": "by a later version"}, now=now)
    Steering(database).end("j", JobState.DONE, reason="BudgetSpent", message="", now=now)
    record = Jobs(database).get("j")
    assert with_earlier(database, "t", spec) == spec
    assert decision_of(database, record).best is None
    assert "done" in ended_text(record)


@pytest.mark.parametrize(
    ("verdict", "origin"),
    [
        ("better", "best of job n"),
        ("no-baseline", "best of job n"),
        ("no-evidence", "handed over by job n, no evidence of a gain"),
        ("worse", "best found by job n, worse than what was in use"),
    ],
)
def test_what_an_earlier_job_handed_over_is_called_what_it_is(
    database: Database, spec: TuningSpec, now: datetime, verdict: str, origin: str
) -> None:
    Jobs(database).create("j", tenant="t", name="n", spec=spec, now=now)
    best = {"setting": {"a": 2}, "objectives": [], "kept": True}
    Steering(database).decide("j", {"verdict": verdict, "message": "m", "best": best}, now=now)
    Steering(database).end("j", JobState.DONE, reason="BudgetSpent", message="", now=now)
    assert [point.origin for point in with_earlier(database, "t", spec).start_with] == [origin]


def test_a_job_with_a_long_name_is_started_with_as_any_other(
    database: Database, spec: TuningSpec, now: datetime
) -> None:
    Jobs(database).create("j", tenant="t", name="n" * 253, spec=spec, now=now)
    best = {"setting": {"a": 2}, "objectives": [], "kept": True}
    Steering(database).decide("j", {"verdict": "worse", "message": "m", "best": best}, now=now)
    Steering(database).end("j", JobState.DONE, reason="BudgetSpent", message="", now=now)
    assert len(with_earlier(database, "t", spec).start_with) == 1


def test_samples_in_a_bundle_are_bounded_in_bytes(
    database: Database, spec: TuningSpec, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_files, "_SAMPLES_BYTES_MAX", 25)
    Jobs(database).create("j", tenant="t", name="n", spec=spec, now=now)
    asks = [
        Ask(number=n, setting={"a": n + 1}, canonical=f"c{n}", seed=n, purpose=TrialPurpose.CONFIRM) for n in range(3)
    ]
    assert Studies(database).append("j", asks, now=now)
    metrics = {"value": 1.0, "ttft_p90_ms": 1.0}
    for number in range(3):
        leased = Trials(database).lease(f"j/{number}", owner="w", seconds=30, now=now)
        assert leased is not None
        measured = Measurement(metrics=metrics, definitions="1", duration_s=1.0)
        outcome = Outcome(verdict=Verdict.OK, measurement=measured, samples=b"0123456789")
        assert Trials(database).tell(leased, outcome, now=now)
    with tarfile.open(fileobj=io.BytesIO(bundle_of(database, Jobs(database).get("j")))) as bundle:
        assert len([name for name in bundle.getnames() if name.endswith(".parquet")]) == 2
