"""One trial worked on: whatever the runner, the store or the lease do, exactly what was measured under a lease counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from controlplane.model.errors import Refused
from controlplane.model.ports import StopSignal, TrialRunner
from controlplane.model.tuning import LeasedTrial, Outcome, Renewal, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.testing.null_runner import NullRunner
from tests.unit.store.conftest import NOW, SPEC
from tuner import work as module
from tuner.embedded import LocalQueue
from tuner.work import Work

LEASED = LeasedTrial(id="j/0", job="j", tenant="local", number=0, attempt=1, setting={"a": 1}, seed=0)


@dataclass
class Store:
    """Answers what a test wants; remembers what it was told."""

    free: bool = True
    renewal: Renewal | Exception = field(default_factory=lambda: Renewal(ours=True))
    refusals: list[Exception] = field(default_factory=list)
    told: list[Outcome] = field(default_factory=list)
    renewed: int = 0

    def lease(self, trial: str, *, owner: str, seconds: float, now: datetime) -> LeasedTrial | None:
        return LEASED if self.free else None

    def renew(self, leased: LeasedTrial, *, seconds: float, now: datetime) -> Renewal:
        self.renewed += 1
        if isinstance(self.renewal, Exception):
            raise self.renewal
        return self.renewal

    def tell(self, leased: LeasedTrial, outcome: Outcome, *, now: datetime) -> bool:
        if self.refusals:
            raise self.refusals.pop(0)
        self.told.append(outcome)
        return True

    def spec(self, job: str) -> TuningSpec:
        return SPEC


class Queue:
    def __init__(self) -> None:
        self.jobs: list[str] = []

    def trial(self, trial: str) -> None: ...

    def job(self, job: str) -> None:
        self.jobs.append(job)


class UntilStopped:
    """Measures until it is told to stop."""

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        assert stop.wait(10.0)
        return Outcome(verdict=Verdict.INFEASIBLE, reason="the engine died")


class Raising:
    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        raise OSError("no such device")


class Measured:
    """Has a result however late it was told to end."""

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        stop.wait(10.0)
        return NullRunner().run(leased, spec, stop=stop)


class NotOk:
    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        assert any(stop.wait(0.25) for _ in range(40))
        return Outcome(verdict=Verdict.INFRASTRUCTURE, reason="stopped")


def worker(store: Store, runner: TrialRunner, queue: Queue | None = None, lease_s: float = 0.03) -> Work:
    return Work(store=store, runner=runner, queue=queue or Queue(), owner="w", now=lambda: NOW, lease_s=lease_s)


def test_a_result_is_told_and_the_driver_hears_of_it() -> None:
    store, queue = Store(), Queue()
    assert worker(store, NullRunner(), queue).on("j/0")
    assert store.told[0].verdict is Verdict.OK and queue.jobs == ["j"]


def test_a_trial_that_is_not_to_be_had_is_left_alone() -> None:
    store, queue = Store(free=False), Queue()
    assert not worker(store, Raising(), queue).on("j/0")
    assert store.told == [] and queue.jobs == []


def test_the_lease_is_renewed_while_it_lasts() -> None:
    store = Store()

    class Patient:
        def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
            until = time.monotonic() + 30.0
            while store.renewed < 3 and time.monotonic() < until:
                time.sleep(0.01)
            return NullRunner().run(leased, spec, stop=stop)

    assert worker(store, Patient()).on("j/0")
    assert store.renewed >= 3


def test_a_runner_that_fails_is_infrastructure() -> None:
    store = Store()
    assert worker(store, Raising()).on("j/0")
    assert store.told[0].verdict is Verdict.INFRASTRUCTURE and "no such device" in store.told[0].reason


def test_a_lease_that_has_passed_on_stops_the_runner_and_tells_nothing() -> None:
    store, queue = Store(renewal=Renewal(ours=False)), Queue()
    assert not worker(store, UntilStopped(), queue).on("j/0")
    assert store.told == [] and queue.jobs == []


def test_a_cancelled_job_stops_the_runner_and_what_it_says_then_does_not_count() -> None:
    store = Store(renewal=Renewal(ours=True, cancelled=True))
    assert worker(store, UntilStopped()).on("j/0")
    assert (store.told[0].verdict, store.told[0].reason) == (Verdict.INFRASTRUCTURE, "the job was cancelled")


def test_a_store_that_is_away_for_a_whole_lease_stops_the_runner() -> None:
    store = Store(renewal=Refused("away", code="StoreUnreachable"))
    assert worker(store, UntilStopped()).on("j/0")
    assert store.told[0].reason == "the lease could not be renewed"


def test_a_runner_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE_S", -2 * SPEC.measuring.timeout_s + 0.05)
    store = Store()
    assert worker(store, UntilStopped()).on("j/0")
    assert "took longer" in store.told[0].reason


def test_a_runner_that_hangs_keeps_no_trial_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DEAF_S", 0.1)
    store = Store(renewal=Renewal(ours=True, cancelled=True))
    counted: list[int] = []

    class Deaf:
        def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
            assert stop.wait(10.0)
            for _ in range(200):
                time.sleep(0.05)
                counted.append(store.renewed)
                if len(counted) > 20 and counted[-10] == counted[-1]:
                    break  # for half a second nobody has renewed
            return Outcome(verdict=Verdict.INFEASIBLE, reason="late")

    assert worker(store, Deaf()).on("j/0")
    assert counted[-1] == counted[-10] and store.told[0].verdict is Verdict.INFRASTRUCTURE


def test_a_result_waits_for_a_store_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TELL_EVERY_S", 0.01)
    store = Store(refusals=[Refused("away", code="StoreUnreachable"), Refused("full", code="StoreFull")])
    assert worker(store, NullRunner()).on("j/0")
    assert store.told[0].verdict is Verdict.OK


def test_other_errors_of_the_store_are_not_repeated() -> None:
    store = Store(refusals=[Refused("no", code="Other")])
    with pytest.raises(Refused, match="no"):
        worker(store, NullRunner()).on("j/0")
    assert threading.active_count() < 20  # nobody goes on renewing


def test_the_local_queue_takes_an_id_once_at_a_time_and_outlives_errors() -> None:
    seen: list[str] = []
    gate = threading.Event()

    def act(trial: str) -> None:
        seen.append(trial)
        assert gate.wait(5.0)
        if trial == "j/0":
            raise RuntimeError("broken")

    queue = LocalQueue(act, parallel=2)
    for trial in ("j/0", "j/0", "j/1", "j/1"):
        queue.trial(trial)
    gate.set()
    queue.wait(5.0)
    until = time.monotonic() + 5.0
    while queue._under_way and time.monotonic() < until:
        time.sleep(0.01)
    queue.trial("j/0")
    queue.close()
    assert sorted(seen) in (["j/0", "j/0", "j/1"], ["j/0", "j/1"])


def test_a_worker_that_is_told_to_end_puts_its_trial_back_at_once_and_takes_no_other() -> None:
    store, stopping = Store(), threading.Event()
    work = Work(store=store, runner=NotOk(), queue=Queue(), owner="w", now=lambda: NOW, lease_s=30.0, stopping=stopping)
    timer = threading.Timer(0.1, stopping.set)
    timer.start()
    began_s = time.monotonic()
    assert work.on("j/0") and time.monotonic() - began_s < 9.0  # sooner than the first renewal
    (told,) = store.told
    assert (told.verdict, told.interrupted) == (Verdict.INFRASTRUCTURE, True)
    assert not work.on("j/1") and len(store.told) == 1
    timer.join()


def test_a_result_counts_however_late_its_worker_was_told_to_end() -> None:
    store, stopping = Store(), threading.Event()
    stopping_soon = threading.Timer(0.05, stopping.set)
    stopping_soon.start()
    work = Work(
        store=store, runner=Measured(), queue=Queue(), owner="w", now=lambda: NOW, lease_s=30.0, stopping=stopping
    )
    assert work.on("j/0") and store.told[0].verdict is Verdict.OK and not store.told[0].interrupted
    stopping_soon.join()


WORKER = """
import threading
from tuner.tasks import TRIALS, make_app, serve

ending = threading.Event()

def trial(_):
    print("began", flush=True)
    print("heard" if ending.wait(60) else "deaf", flush=True)

app = make_app("memory://", trial=trial)
app.send_task(TRIALS, args=["j/0"], queue=TRIALS)
serve(app, TRIALS, name="w", told_to_end=ending.set)
"""


def test_a_worker_process_hears_that_it_is_to_end_while_a_trial_is_under_way() -> None:
    command = [sys.executable, "-c", WORKER]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdout is not None
        said = ""
        for line in child.stdout:
            said += line
            if "began" in line:
                child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0 and "heard" in said, said
