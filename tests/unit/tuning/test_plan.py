"""What the controller does next: one rule at a time, and whatever the world looks like."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.ports import SUSPENDED
from controlplane.model.resource import rfc3339
from controlplane.model.tuning import JobState
from controlplane.model.tuning_records import SeenJob, TrialCounts, TuningJobRecord
from controlplane.model.tuning_resource import TUNING_FINALIZER
from operators.tuning.plan import LEAVE_AFTER_S, Action, Sight, plan
from operators.tuning.row import TuningRow
from tests.unit.tuning.cases import NOW, UID, record, row, sight

SAID_SUSPENDED = {
    "jobId": UID,
    "conditions": [{"type": "Suspended", "status": "True", "reason": "Suspended", "lastTransitionTime": rfc3339(NOW)}],
}
DELETED = {"deleting": rfc3339(NOW)}


def kinds(seen: Sight) -> list[str]:
    return [action.kind for action in plan(seen)]


def test_a_new_resource_is_claimed_before_its_job_is_made() -> None:
    assert kinds(sight(row(claimed=False))) == ["claim", "open"]
    assert kinds(sight(row())) == ["open"]


def test_a_suspended_one_is_not_begun() -> None:
    assert kinds(sight(row(claimed=False, suspend=True))) == []


def test_without_a_database_nothing_is_done_and_nothing_is_held() -> None:
    assert kinds(sight(row(claimed=False), store=False)) == []
    assert kinds(sight(row(**DELETED), store=False)) == ["release"]


def test_a_spec_that_cannot_be_read_begins_nothing() -> None:
    assert kinds(sight(row(claimed=False, objectives=[]))) == []


def test_a_job_that_others_deleted_is_not_made_anew() -> None:
    assert kinds(sight(row({"jobId": UID}))) == []


@pytest.mark.parametrize(
    ("state", "wanted"), [(JobState.RUNNING, ["pause"]), (JobState.PAUSED, []), (JobState.DONE, [])]
)
def test_suspending_pauses_what_runs(state: JobState, wanted: list[str]) -> None:
    assert kinds(sight(row(suspend=True), record(state))) == wanted


def test_only_our_own_pause_is_taken_back() -> None:
    assert kinds(sight(row(), record(JobState.PAUSED, reason=SUSPENDED))) == ["resume"]
    assert kinds(sight(row(), record(JobState.PAUSED, reason="Paused"))) == []
    assert kinds(sight(row(), record(JobState.PAUSED, reason="TrialsFail"))) == []


def test_suspending_and_resuming_takes_any_pause_back() -> None:
    assert kinds(sight(row(SAID_SUSPENDED), record(JobState.PAUSED, reason="TrialsFail"))) == ["resume"]


@pytest.mark.parametrize(
    ("state", "extends"),
    [(JobState.RUNNING, True), (JobState.PAUSED, True), (JobState.DONE, True), (JobState.FAILED, False),
     (JobState.CANCELLED, False)],
)  # fmt: skip
def test_a_raised_budget_extends_what_can_still_run(state: JobState, extends: bool) -> None:
    found = plan(sight(row(budget={"trials": 50}), record(state)))
    assert found == ([Action("extend", 50)] if extends else [])


def test_a_budget_that_was_raised_elsewhere_stays() -> None:
    assert plan(sight(row(), record(budget=100))) == []


def test_a_larger_budget_of_a_suspended_job_waits() -> None:
    assert kinds(sight(row(suspend=True, budget={"trials": 50}), record(JobState.DONE))) == []


def test_deletion_cancels_waits_for_trials_and_then_lets_go() -> None:
    leaving = row(**DELETED)
    under_way, none = TrialCounts(asked=1, leased=1), TrialCounts(asked=1, cancelled=1)
    assert kinds(sight(leaving, record())) == ["cancel"]
    assert kinds(sight(leaving, record(JobState.CANCELLED, counts=under_way))) == []
    assert kinds(sight(leaving, record(JobState.CANCELLED, counts=none))) == ["delete", "release"]
    late = NOW + timedelta(seconds=LEAVE_AFTER_S)
    assert kinds(sight(leaving, record(JobState.CANCELLED, counts=under_way), now=late)) == ["delete", "release"]
    assert kinds(sight(leaving)) == ["release"]
    assert kinds(sight(row(claimed=False, **DELETED))) == []


STATES = st.sampled_from(list(JobState))
RECORDS = st.builds(
    lambda state, reason, budget, leased: record(
        state, reason=reason, budget=budget, counts=TrialCounts(asked=5, leased=leased)
    ),
    STATES,
    st.sampled_from(["", SUSPENDED, "Paused", "TrialsFail"]),
    st.sampled_from([1, 20, 50]),
    st.integers(0, 2),
)
ROWS = st.builds(
    lambda status, claimed, deleting, suspend, trials: row(
        status, claimed=claimed, deleting=deleting, suspend=suspend, budget={"trials": trials}
    ),
    st.sampled_from([None, {"jobId": UID}, SAID_SUSPENDED]),
    st.booleans(),
    st.sampled_from([None, rfc3339(NOW)]),
    st.booleans(),
    st.sampled_from([20, 50]),
)
SIGHTS = st.builds(
    lambda found, job, store, waited_s: sight(
        found, job if store else None, store=store, now=NOW + timedelta(seconds=waited_s)
    ),
    ROWS,
    st.none() | RECORDS,
    st.booleans(),
    st.sampled_from([0, 2 * LEAVE_AFTER_S]),
)


def after(seen: Sight, action: Action) -> Sight:
    """The world once an action was taken."""
    job: TuningJobRecord | None = None if seen.seen is None else seen.seen.record
    changes: dict[str, Any] = {
        "open": {},
        "pause": {"state": JobState.PAUSED, "reason": SUSPENDED},
        "resume": {"state": JobState.RUNNING, "reason": ""},
        "extend": {"budget": action.trials},
        "cancel": {"state": JobState.CANCELLED, "reason": "Cancelled"},
    }
    found: TuningRow = seen.row
    match action.kind:
        case "claim" | "release":
            held = (TUNING_FINALIZER,) if action.kind == "claim" else ()
            found = msgspec.structs.replace(seen.row, finalizers=held)
        case "delete":
            job = None
        case "open":
            job = record(counts=TrialCounts())
        case "extend":
            assert job is not None
            state = JobState.RUNNING if job.state is JobState.DONE else job.state
            job = job.model_copy(update={"budget": action.trials, "state": state})
        case _:
            assert job is not None
            job = job.model_copy(update=changes[action.kind])
    return Sight(found, found.read(), None if job is None else SeenJob(record=job), seen.store, seen.now)


@given(SIGHTS)
def test_whatever_is_found_the_plans_come_to_an_end_and_do_no_harm(start: Sight) -> None:
    seen = start
    for _ in range(4):
        actions = plan(seen)
        names = [action.kind for action in actions]
        leaving, state = seen.row.deleting is not None, None if seen.seen is None else seen.seen.record.state
        if "open" in names:
            assert seen.seen is None and seen.read.job_id is None and not leaving
            assert seen.read.spec is not None and not seen.read.spec.suspend
        if not seen.store:
            assert set(names) <= {"release"}
        if "release" in names:
            assert leaving
            assert seen.seen is None or (
                names == ["delete", "release"] and state not in (JobState.RUNNING, JobState.PAUSED)
            )
        if not leaving:
            assert not {"cancel", "delete", "release"} & set(names)
        if not actions:
            break
        for action in actions:
            seen = after(seen, action)
    assert plan(seen) == []
    if seen.seen is not None and seen.row.deleting is None and seen.read.spec is not None:
        suspended = seen.read.spec.suspend
        assert not (suspended and seen.seen.record.state is JobState.RUNNING)
        assert suspended or seen.seen.record.reason != SUSPENDED or seen.seen.record.state is not JobState.PAUSED


@given(SIGHTS, st.integers(0, 3))
def test_an_operator_that_died_between_two_actions_is_taken_over(start: Sight, done: int) -> None:
    """The next one plans from what was left, and comes to the same end."""

    def end(seen: Sight) -> Sight:
        for _ in range(6):
            for action in plan(seen):
                seen = after(seen, action)
        return seen

    cut = start
    for action in plan(start)[:done]:
        cut = after(cut, action)
    assert end(cut) == end(start)
