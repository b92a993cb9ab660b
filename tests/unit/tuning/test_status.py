"""What a TuningJob says: one reason, the best, the gain, and never more than fits."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import jsonschema
import pytest

from controlplane.model.errors import InvalidSpec, Refused, Unsupported
from controlplane.model.ports import SUSPENDED
from controlplane.model.resource import rfc3339
from controlplane.model.tuning import JobState
from controlplane.model.tuning_records import SeenJob, TrialCounts
from controlplane.model.tuning_resource import TuningJobStatus
from controlplane.store.trials import WAITS
from operators.crds.definitions import tuning_job
from operators.tuning.best import bounded
from operators.tuning.news import news
from operators.tuning.plan import LEAVE_AFTER_S, Sight
from operators.tuning.row import TuningRow
from operators.tuning.status import judge, status
from tests.unit.crds.test_schema import plain, root
from tests.unit.tuning.cases import NOW, UID, record, row, sight, trial

MINUTE = timedelta(minutes=1)
AWAY = Refused("the database does not answer", field="TRIMTAB_DATABASE_URL", code="StoreUnreachable")
DECISION: dict[str, Any] = {
    "verdict": "better",
    "message": "the confirmed best is better",
    "best": {
        "number": 7,
        "setting": {"a": 8},
        "objectives": [{"mean": 812.4, "lo": 800.0, "hi": 825.0, "runs": 5}],
        "gainPct": {"mean": 12.3, "lo": 8.1, "hi": 16.4, "runs": 5},
    },
}


def reason(seen: Sight, trouble: Refused | None = None) -> tuple[str, str]:
    said = judge(seen, trouble)
    return said.state, said.reason


IDLE = record(counts=TrialCounts())


@pytest.mark.parametrize(
    ("seen", "state", "why"),
    [
        (sight(row()), "Pending", "Accepted"),
        (sight(row(suspend=True)), "Pending", "Suspended"),
        (sight(row(objectives=[])), "Failed", "InvalidSpec"),
        (sight(row(), store=False), "Pending", "NoDatabase"),
        (sight(row({"jobId": UID})), "Cancelled", "JobDeleted"),
        (sight(row(), record()), "Running", "Running"),
        (sight(row(), IDLE), "Running", "Running"),
        (sight(row(), IDLE, now=NOW + MINUTE), "Running", "WaitingForDriver"),
        (sight(row(), record(JobState.PAUSED, reason="Paused")), "Paused", "Paused"),
        (sight(row(), record(JobState.PAUSED, reason=SUSPENDED)), "Paused", "Suspended"),
        (sight(row(suspend=True), record(JobState.PAUSED, reason="TrialsFail")), "Paused", "Suspended"),
        (sight(row(), record(JobState.PAUSED, reason="TrialsFail")), "Paused", "TrialsFail"),
        (sight(row(), record(JobState.DONE, reason="BudgetSpent")), "Done", "Done"),
        (sight(row(), record(JobState.DONE, counts=TrialCounts(asked=4, failed=4))), "Done", "NothingMeasured"),
        (sight(row(), record(JobState.FAILED, reason="no word")), "Failed", "Failed"),
        (sight(row(), record(JobState.CANCELLED)), "Cancelled", "Cancelled"),
        (sight(row(deleting=rfc3339(NOW)), record(JobState.CANCELLED)), "Cancelled", "Deleting"),
    ],
)
def test_one_reason_dominates(seen: Sight, state: str, why: str) -> None:
    assert reason(seen) == (state, why)


def test_who_waits_for_completion_is_not_told_that_a_job_without_a_measurement_completed() -> None:
    body = status(sight(row(), record(JobState.DONE, counts=TrialCounts(asked=2, infeasible=1, failed=1))), None)
    assert {one["type"]: one["status"] for one in body["conditions"]} == {
        "Complete": "False", "Failed": "True", "Suspended": "False",
    }  # fmt: skip


def test_a_definition_newer_than_the_operator_fails_no_job() -> None:
    newer = row(fieldOfTomorrow=True)
    assert reason(sight(newer, record())) == ("Running", "Running")
    said = judge(sight(newer), None)
    assert (said.reason, said.failed, said.unknown) == ("OperatorTooOld", False, True)
    assert "fieldOfTomorrow" in said.message
    assert reason(sight(row(fieldOfTomorrow=True, objectives=[]))) == ("Failed", "InvalidSpec")


def test_a_trial_that_nobody_takes_waits_for_hardware_and_says_what_went_wrong() -> None:
    waits = SeenJob(
        record=record(counts=TrialCounts(asked=1, waiting=1)), waiting=trial(4, reason="no free cores", asked_at=NOW)
    )
    assert reason(sight(row(), waits)) == ("Running", "Running")
    assert "trial 4: no free cores" in judge(sight(row(), waits), None).message
    said = judge(sight(row(), waits, now=NOW + MINUTE), None)
    assert said.reason == "WaitingForHardware"
    assert "trial 4" in said.message and "no free cores" in said.message
    later = judge(sight(row(), waits, now=NOW + 60 * MINUTE), None)
    assert later == said  # a clock in the text would be a write with every look


def test_hardware_that_is_free_in_a_moment_is_no_news() -> None:
    """One trial's pod goes while the next one's comes."""
    waits = SeenJob(record=record(reason=WAITS, message="trial 3: no node"), waiting=trial(3, leased_at=NOW))
    assert reason(sight(row(), waits)) == ("Running", "Running")
    said = judge(sight(row(), waits, now=NOW + MINUTE), None)
    assert (said.reason, said.message) == ("WaitingForHardware", "trial 3: no node")


def test_hardware_that_every_attempt_waits_for_is_news_however_short_they_are() -> None:
    asked, leased = NOW - MINUTE, NOW - MINUTE / 12
    waits = SeenJob(
        record=record(reason=WAITS, message="trial 3: no node"),
        waiting=trial(3, asked_at=asked, leased_at=leased, attempt=9),
    )
    assert reason(sight(row(), waits)) == ("Running", "WaitingForHardware")


def test_refusals_of_the_store_are_told_with_the_way_out() -> None:
    taken = judge(sight(row()), Refused("exists", code="AlreadyExists"))
    assert (taken.reason, taken.failed) == ("NameTaken", True)
    assert "DELETE /v1/tuning-jobs/ID" in taken.message
    gone = judge(sight(row()), Refused("gone", code="IdempotencyGone"))
    assert gone.reason == "JobDeleted"


def test_a_deployment_that_is_not_there_yet_is_waited_for() -> None:
    missing = InvalidSpec("there is no such ServingDeployment", field="target.name", value="chat")
    said = judge(sight(row()), missing)
    assert (said.state, said.reason, said.failed) == ("Pending", "WaitingForDeployment", False)
    assert said.message.startswith("spec.target.name: ")
    roles = Unsupported("its replicas are measured only together", field="target.name")
    assert judge(sight(row()), roles).failed


def test_a_larger_budget_of_a_cancelled_job_is_said_to_be_without_effect() -> None:
    said = judge(sight(row(budget={"trials": 50}), record(JobState.CANCELLED)), None)
    assert "a budget of 50 has no effect" in said.message


def test_a_deletion_that_goes_on_without_its_trials_says_so() -> None:
    leaving = row(deleting=rfc3339(NOW))
    job = record(JobState.CANCELLED)
    assert "1 trial under way" in judge(sight(leaving, job), None).message
    late = judge(sight(leaving, job, now=NOW + timedelta(seconds=LEAVE_AFTER_S)), None)
    assert "it goes without them" in late.message


def test_a_store_that_is_away_takes_nothing_back() -> None:
    before = status(sight(row(), SeenJob(record=record(), leader=trial(2))), None)
    after = status(sight(row(before)), AWAY)
    for name in ("jobId", "trials", "counts", "best", "report", "startedAt", "state"):
        assert after[name] == before[name]
    conditions = {item["type"]: (item["status"], item["reason"]) for item in after["conditions"]}
    assert conditions["Complete"] == ("Unknown", "StoreUnreachable")
    assert conditions["Failed"] == ("False", "Running")


def test_best_and_gain_once_decided() -> None:
    body = status(sight(row(), record(JobState.DONE, decision=DECISION, ended_at=NOW)), None)
    assert body["best"] == {
        "trial": 7, "setting": {"a": 8}, "metric": "value", "value": 812.4, "lo": 800.0, "hi": 825.0, "confirmed": True,
        "text": "812.4 value",
    }  # fmt: skip
    assert body["gain"]["text"] == "+12.3 % (+8.1 to +16.4)"
    assert body["message"] == "the confirmed best is better"


@pytest.mark.parametrize(
    ("verdict", "best", "text"),
    [
        ("no-baseline", {**DECISION["best"], "gainPct": None}, "no-baseline"),
        ("none-kept", None, "none-kept"),
        ("no-evidence", {**DECISION["best"], "gainPct": {"mean": -0.1, "runs": 1}}, "-0.1 %"),
    ],
)
def test_what_is_not_known_is_not_a_number(verdict: str, best: Any, text: str) -> None:
    decision = {**DECISION, "verdict": verdict, "best": best}
    body = status(sight(row(), record(JobState.DONE, decision=decision)), None)
    assert body["gain"]["text"] == text
    assert ("best" in body) is (best is not None)


def test_a_decision_of_a_newer_version_is_no_crash() -> None:
    body = status(sight(row(), record(JobState.DONE, decision={"verdict": "other"})), None)
    assert "gain" not in body and "best" not in body


def sized(trials: int) -> dict[str, Any]:
    counts = TrialCounts(asked=trials, done=trials - 3, infeasible=2, failed=1)
    seen = SeenJob(record=record(counts=counts, budget=trials, events=5 * trials), leader=trial(trials - 1))
    return status(sight(row(), seen), None)


def test_the_status_has_one_size_for_10_trials_and_for_10_000() -> None:
    small, large = (len(json.dumps(sized(trials))) for trials in (10, 10_000))
    assert large - small < 60  # digits of the counts
    assert large < 2_000


def test_settings_stay_small_and_what_is_shown_is_shown_whole() -> None:
    wide = {f"p{number}": "x" * 1000 for number in range(64)} | {"a": 1, "b": True}
    shown = bounded(wide)
    assert shown.items() <= wide.items() and {"a", "b"} <= shown.keys()
    assert len(json.dumps(shown)) < 10_000
    assert bounded({"a": 1}) == {"a": 1}


EVERY = [
    sized(10),
    status(sight(row(), record(JobState.DONE, decision=DECISION, ended_at=NOW)), None),
    status(sight(row()), AWAY),
    status(sight(row(objectives=[])), None),
]


@pytest.mark.parametrize("body", EVERY, ids=["running", "done", "away", "invalid"])
def test_what_is_written_fits_the_schema_and_the_type(body: dict[str, Any]) -> None:
    jsonschema.validate(body, plain(root(tuning_job())["properties"]["status"]))
    TuningJobStatus.model_validate(body)


def told(before: TuningRow, after: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(item.reason, item.bad) for item in news(before.read().status, after)]


def test_events_tell_what_is_new_and_nothing_twice() -> None:
    first = status(sight(row(), record()), None)
    assert told(row(), first) == [("Created", False), ("Running", False)]
    assert told(row(first), status(sight(row(first), record()), None)) == []
    found = status(sight(row(first), SeenJob(record=record(), leader=trial(2))), None)
    assert told(row(first), found) == [("BestFound", False)]
    done = status(sight(row(found), record(JobState.DONE, decision=DECISION)), None)
    assert told(row(found), done) == [("Done", False)]
    assert told(row(found), status(sight(row(found)), AWAY)) == [("StoreUnreachable", True)]
    assert told(row(), status(sight(row(objectives=[])), None)) == [("InvalidSpec", True)]


def test_a_budget_of_one_is_one_trial() -> None:
    (one,) = news({}, {"jobId": "j", "counts": {"budget": 1}})
    assert one.message == "tuning job j begun: 1 trial"
