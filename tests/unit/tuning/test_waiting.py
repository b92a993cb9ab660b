"""Hardware that is taken for longer than an attempt may wait: the trial waits on, and is measured when a node is free."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane.loops.tuning import TuningDriver
from controlplane.model.errors import Refused
from controlplane.model.tuning import JobState, TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_pods import PodSeen
from controlplane.store.database import Database, open_database
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
from controlplane.store.migrate import upgrade
from controlplane.store.references import References
from controlplane.store.steering import Steering
from controlplane.store.studies import Studies
from controlplane.store.trials import WAITS, Trials
from controlplane.tuning_jobs import sampler_of
from tests.unit.tuner.measure.test_pods import Launcher, Pod, quick
from tests.unit.tuning.cases import SPEC
from tuner.measure.pods import PodRunner
from tuner.search.canonical import canonical_of
from tuner.work import Work

__all__ = ["quick"]
TAKEN = PodSeen(
    "pending", reason="Unschedulable", message="0/2 nodes are available: 2 node(s) didn't match anti-affinity"
)
DONE = PodSeen("succeeded", scheduled=True, node="n", exit_code=0)


def now() -> datetime:
    return datetime.now(UTC)


class Messages:
    """Every message is noted and lost; the test plays the worker."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def trial(self, trial: str) -> None:
        self.sent.append(trial)

    def job(self, job: str) -> None:
        pass


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/t.db")
    upgrade(database)
    yield database
    database.close()


class Lab:
    def __init__(self, database: Database) -> None:
        self.database = database
        changes: dict[str, object] = {
            "limits": [],
            "budget": {"trials": 1},
            "measuring": {"timeoutS": 0.05, "attempts": 2},
        }
        self.spec = TuningSpec.model_validate({**SPEC, **changes})
        Jobs(database).create("j", tenant="team", name="n", spec=self.spec, now=now())
        self.driver = TuningDriver(
            database=database, queue=Messages(), sampler=sampler_of, canonical=canonical_of, now=now
        )
        self.messages = Messages()
        self.pod = Pod([TAKEN], ["value=3"])
        self.launcher = Launcher(self.pod)
        store = Trials(database)
        runner = PodRunner(
            self.launcher, lambda leased, why: store.waits(leased, why, now=now()), References(database), again_s=0.01
        )
        self.work = Work(store=store, runner=runner, queue=self.messages, owner="w", now=now)
        self.driver.sweep()

    def turn(self) -> None:
        """The driver finds the trial waiting, a worker takes it."""
        self.driver.sweep()
        self.work.on("j/0")
        self.driver.sweep()

    @property
    def trial(self) -> tuple[TrialState, int]:
        found = Studies(self.database).trials_from("j", 0)[0]
        return found.state, found.lost


def test_a_busy_node_costs_no_attempt_however_long_it_is_busy(database: Database) -> None:
    lab = Lab(database)
    for _ in range(6):  # the job has two attempts
        lab.turn()
        assert lab.trial == (TrialState.WAITING, 0)
        job = Jobs(database).get("j")
        assert (job.state, job.reason) == (JobState.RUNNING, WAITS)
        assert "anti-affinity" in job.message and "anti-affinity" in Studies(database).trials_from("j", 0)[0].reason
    assert lab.messages.sent == ["j/0"] * 6  # at once, whatever the sweep's pauses
    lab.pod.states = [DONE]
    lab.turn()
    assert lab.trial == (TrialState.DONE, 0)
    assert len(lab.messages.sent) == 6
    assert Jobs(database).get("j").reason != WAITS
    assert lab.pod.ended == 7
    kinds = [event.kind for event in EventLog(database).after("j", 0)]
    assert (kinds.count("waits") == 6 and kinds[-1] == "ended") or "begins" in kinds


def test_neither_do_a_quota_and_an_api_server_that_is_away(database: Database) -> None:
    lab = Lab(database)
    for code in ("QuotaExceeded", "ClusterUnreachable"):
        lab.launcher.errors = [Refused(f"no: {code}", code=code)] * 1000
        lab.turn()
        assert lab.trial == (TrialState.WAITING, 0) and code in Jobs(database).get("j").message
    lab.launcher.errors = []
    lab.pod.states = [DONE]
    lab.turn()
    assert lab.trial == (TrialState.DONE, 0)


def test_what_is_no_wait_still_does(database: Database) -> None:
    lab = Lab(database)
    lab.pod.states = [PodSeen("failed", reason="Evicted", message="low on memory")]
    lab.turn()
    assert lab.trial == (TrialState.WAITING, 1)
    lab.turn()
    assert lab.trial == (TrialState.FAILED, 2)


def test_a_job_that_is_cancelled_while_it_waits_is_over(database: Database) -> None:
    lab = Lab(database)
    lab.turn()
    Steering(database).cancel("j", now=now())
    assert lab.work.on("j/0") is False
    assert lab.trial[0] is TrialState.CANCELLED and Jobs(database).get("j").state is JobState.CANCELLED
