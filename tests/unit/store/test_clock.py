"""Workers whose clocks differ, as their processes are put together: leases end by the database's clock alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

import controlplane.store.clock as module
from controlplane.model.errors import Refused
from controlplane.model.tuning import TrialState
from controlplane.model.tuning_records import Ask
from controlplane.store.clock import ServerClock
from controlplane.store.database import Database, open_database
from controlplane.store.jobs import Jobs
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.testing.null_runner import NullRunner
from controlplane.tuning_process import driver_of, work_on
from tests.unit.store.conftest import SPEC

_SKEWS_S = [-86_400.0, -600.0, 600.0, 86_400.0]


class Queue:
    def trial(self, trial: str) -> None: ...

    def job(self, job: str) -> None: ...


@pytest.fixture
def skewed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock of this machine. A file's store has no other clock, and no other machine either: both sides of a
    test then follow it."""

    def skew(off_s: float) -> None:
        monkeypatch.setattr(module, "_wall", lambda: datetime.now(UTC) + timedelta(seconds=off_s))

    return skew


def waiting(database: Database) -> None:
    Jobs(database).create("j", tenant="t", name="j", spec=SPEC, now=database.now())
    asks = [Ask(number=0, setting={"a": 1}, canonical="1", seed=0, why="")]
    assert Studies(database).append("j", asks, now=database.now())


def second(database: Database) -> Database:
    """The same store as another process has it."""
    return open_database(database.engine.url.render_as_string(hide_password=False))


@pytest.mark.parametrize("off_s", _SKEWS_S)
def test_a_worker_with_another_clock_takes_no_trial_that_is_measured(
    database: Database, skewed: Callable[[float], None], off_s: float
) -> None:
    if database.embedded:
        skewed(off_s)
    waiting(database)
    held = Trials(database).lease("j/0", owner="first", seconds=30.0, now=database.now())
    assert held is not None
    skewed(off_s)
    other = second(database)
    assert not work_on(other, NullRunner(), Queue(), threading.Event()).on("j/0")
    driver_of(other, Queue()).sweep()
    other.close()
    assert Trials(database).renew(held, seconds=30.0, now=database.now()).ours


@pytest.mark.parametrize("off_s", _SKEWS_S)
def test_a_driver_with_another_clock_gives_dead_workers_up(
    database: Database, skewed: Callable[[float], None], off_s: float
) -> None:
    if database.embedded:
        skewed(off_s)
    waiting(database)
    ago = database.now() - timedelta(seconds=60)
    assert Trials(database).lease("j/0", owner="dead", seconds=30.0, now=ago) is not None
    skewed(off_s)
    other = second(database)
    driver_of(other, Queue()).sweep()
    other.close()
    assert Studies(database).trials_from("j", 0)[0].state is TrialState.WAITING


@pytest.mark.parametrize("off_s", _SKEWS_S)
def test_a_renewal_by_another_clock_lasts_as_long_as_any(
    database: Database, skewed: Callable[[float], None], off_s: float
) -> None:
    if database.embedded:
        skewed(off_s)
    waiting(database)
    skewed(off_s)
    other = second(database)
    held = Trials(other).lease("j/0", owner="other", seconds=30.0, now=other.now())
    assert held is not None and Trials(other).renew(held, seconds=30.0, now=other.now()).ours
    other.close()
    assert Trials(database).lease("j/0", owner="first", seconds=30.0, now=database.now()) is None
    later = database.now() + timedelta(seconds=60)
    assert Trials(database).lease("j/0", owner="first", seconds=30.0, now=later) is not None


def test_the_time_is_the_databases(database: Database) -> None:
    found = database.now()
    assert found.tzinfo is UTC
    if not database.embedded:
        with database.read() as connection:
            server = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        assert abs((server - found).total_seconds()) < 5.0


def test_between_two_looks_the_server_is_not_asked() -> None:
    counted_s, asked = [100.0], [datetime(2026, 1, 1, tzinfo=UTC)]
    seen: list[float] = []

    def ask() -> datetime:
        seen.append(counted_s[0])
        return asked[0]

    clock = ServerClock(ask, lambda: counted_s[0])
    assert clock() == asked[0]
    counted_s[0] = 110.0
    assert clock() == asked[0] + timedelta(seconds=10) and seen == [100.0]
    counted_s[0], asked[0] = 140.0, datetime(2026, 1, 2, tzinfo=UTC)  # somebody set the server's clock
    assert clock() == asked[0] and seen == [100.0, 140.0]


def test_a_server_that_is_away_changes_no_time_that_is_known() -> None:
    counted_s, away = [0.0], [True]

    def ask() -> datetime:
        if away[0]:
            raise Refused("away", code="StoreUnreachable")
        return datetime(2026, 1, 1, tzinfo=UTC)

    clock = ServerClock(ask, lambda: counted_s[0])
    for _ in range(2):
        with pytest.raises(Refused, match="away"):
            clock()
    away[0] = False
    assert clock() == datetime(2026, 1, 1, tzinfo=UTC)
    away[0], counted_s[0] = True, 1000.0
    assert clock() == datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=1000)
