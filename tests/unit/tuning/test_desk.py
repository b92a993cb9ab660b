"""The desk on a real store: one job per resource, the leader that keeps the limits, nothing said twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.ports import SUSPENDED
from controlplane.model.tuning import JobState, Outcome, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import Ask
from controlplane.store.database import Database, open_database
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
from controlplane.store.studies import Studies
from controlplane.store.trials import Trials
from controlplane.store.upkeep import Retention, Upkeep
from controlplane.testing import FakeApiServer
from controlplane.tuning_desk import StoreDesk
from tests.unit.tuning.cases import NAME, NAMESPACE, SPEC, UID
from tests.unit.tuning.lab import Lab, utc_now

JOB = TuningSpec.model_validate(SPEC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/trimtab.db")
    yield database
    database.close()


@pytest.fixture
def desk(database: Database) -> StoreDesk:
    return StoreDesk(database)


def made(desk: StoreDesk, spec: TuningSpec = JOB) -> None:
    desk.open(UID, tenant=NAMESPACE, name=NAME, spec=spec)


def kinds(desk: StoreDesk) -> list[str]:
    return [event.kind for event in EventLog(desk.database).after(UID, 0)]


def test_it_makes_the_tables_and_one_job_however_many_ask(desk: StoreDesk) -> None:
    assert desk.look(UID) is None
    threads = [threading.Thread(target=made, args=(StoreDesk(desk.database),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made(desk)
    assert [job.id for job in Jobs(desk.database).list()] == [UID]
    assert kinds(desk) == ["created"]


def test_a_larger_budget_since_the_first_try_is_no_other_job(desk: StoreDesk) -> None:
    made(desk)
    made(desk, TuningSpec.model_validate({**SPEC, "budget": {"trials": 99}}))
    seen = desk.look(UID)
    assert seen is not None and seen.record.budget == 20


def test_what_was_deleted_is_not_made_anew(desk: StoreDesk) -> None:
    made(desk)
    desk.delete(UID)
    assert desk.look(UID) is None
    with pytest.raises(Refused) as refused:
        made(desk)
    assert refused.value.reason == "IdempotencyGone"


def test_a_job_outlives_the_keys_of_its_making(desk: StoreDesk) -> None:
    made(desk)
    Upkeep(desk.database).purge(Retention(keys_s=0), now=utc_now() + timedelta(seconds=1))
    seen = desk.look(UID)
    assert seen is not None and seen.record.id == UID
    with pytest.raises(Refused):  # whoever asks all the same makes no second one
        made(desk)
    assert len(Jobs(desk.database).list()) == 1


def test_saying_the_same_twice_changes_nothing(desk: StoreDesk) -> None:
    made(desk)
    for act in (desk.pause, desk.pause, desk.resume, desk.resume):
        act(UID)
    desk.extend(UID, 30)
    desk.extend(UID, 30)
    desk.extend(UID, 25)
    desk.cancel(UID)
    desk.cancel(UID)
    assert kinds(desk) == ["created", "paused", "resumed", "extended", "cancelled"]
    for act in (desk.pause, desk.resume):
        act(UID)  # it has ended meanwhile: the next look says so
    seen = desk.look(UID)
    assert seen is not None and seen.record.state is JobState.CANCELLED
    desk.delete(UID)
    desk.delete(UID)


def test_a_pause_says_whose_it_is(desk: StoreDesk) -> None:
    made(desk)
    desk.pause(UID)
    seen = desk.look(UID)
    assert seen is not None and seen.record.reason == SUSPENDED


def test_a_spec_that_cannot_work_makes_no_job(desk: StoreDesk) -> None:
    with pytest.raises(InvalidSpec, match=r"target\.image"):
        made(desk, TuningSpec.model_validate({**SPEC, "target": {"kind": "command", "command": ["x", "{a}"]}}))
    assert Jobs(desk.database).list() == []


def test_the_leader_keeps_every_limit_and_is_read_once_per_trial(
    desk: StoreDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(desk)
    lab = Lab(FakeApiServer(), desk.database)
    for number, (value, ttft_ms) in enumerate([(5.0, 100.0), (9.0, 900.0), (7.0, 100.0), (6.0, 100.0)]):
        lab.measure(UID, number, value, ttft_ms)
    seen = desk.look(UID)
    assert seen is not None and seen.leader is not None and seen.leader.number == 2
    monkeypatch.setattr(Studies, "page", None)  # nothing new was measured: nothing is read
    again = desk.look(UID)
    assert again is not None and again.leader == seen.leader


def test_the_smallest_leads_where_less_is_better(desk: StoreDesk) -> None:
    made(desk, TuningSpec.model_validate({**SPEC, "objectives": [{"metric": "value", "direction": "minimize"}]}))
    lab = Lab(FakeApiServer(), desk.database)
    for number, value in enumerate([5.0, 4.0, 7.0]):
        lab.measure(UID, number, value)
    seen = desk.look(UID)
    assert seen is not None and seen.leader is not None and seen.leader.number == 1


def test_a_trial_waits_for_a_worker_or_for_hardware(desk: StoreDesk) -> None:
    made(desk)
    lab = Lab(FakeApiServer(), desk.database)

    def waiting() -> int | None:
        seen = desk.look(UID)
        assert seen is not None
        return None if seen.waiting is None else seen.waiting.number

    assert waiting() is None
    leased = lab.lease(UID, 0)
    assert waiting() is None
    Trials(desk.database).waits(leased, "no node takes its pod", now=utc_now())
    assert waiting() == 0
    Trials(desk.database).waits(leased, "", now=utc_now())
    assert waiting() is None
    ask = Ask(number=1, setting={"a": 2}, canonical="c")
    assert Studies(desk.database).append(UID, [ask], now=utc_now())
    assert waiting() is None  # another one is measured
    Trials(desk.database).tell(leased, Outcome(verdict=Verdict.INFEASIBLE, reason="x"), now=utc_now())
    assert waiting() == 1
