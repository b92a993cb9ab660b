"""A runner that hangs: noticed, and its process ended together with the engine it had started."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

from controlplane.model.ports import StopSignal
from controlplane.model.tuning import LeasedTrial, Outcome, Renewal, Verdict
from controlplane.model.tuning_job import TuningSpec
from tests.unit.store.conftest import NOW, SPEC
from tuner.watch import GAVE_UP, Watch, ended_when_late
from tuner.work import Work, longest_s

LEASED = LeasedTrial(id="j/0", job="j", tenant="local", number=0, attempt=1, setting={"a": 1}, seed=0)
_PATIENCE_S = 60.0


class Store:
    """Everything is cancelled at the first renewal."""

    def __init__(self) -> None:
        self.told: list[Outcome] = []

    def lease(self, trial: str, *, owner: str, seconds: float, now: datetime) -> LeasedTrial | None:
        return LEASED

    def renew(self, leased: LeasedTrial, *, seconds: float, now: datetime) -> Renewal:
        return Renewal(ours=True, cancelled=True)

    def tell(self, leased: LeasedTrial, outcome: Outcome, *, now: datetime) -> bool:
        self.told.append(outcome)
        return True

    def spec(self, job: str) -> TuningSpec:
        return SPEC


class Queue:
    def trial(self, trial: str) -> None: ...

    def job(self, job: str) -> None: ...


class Hangs:
    """Hears no stop signal."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        self.begun.set()
        self.go.wait(_PATIENCE_S)
        return Outcome(verdict=Verdict.INFRASTRUCTURE, reason="late")


def test_what_is_late_is_said_first_come_first() -> None:
    now_s = [0.0]
    watch = Watch(now_s=lambda: now_s[0])
    watch.expect("j/0", "be measured", 10.0)
    watch.expect("j/1", "be measured", 5.0)
    now_s[0] = 5.0
    assert watch.wrong() is None
    now_s[0] = 12.0
    assert watch.wrong() == "trial j/1 was to be measured, and is 7 s late"
    watch.over("j/1")
    watch.expect("j/0", "be told", 10.0)
    watch.hurry("j/0", "be measured", "stop", 1.0)  # it has been measured meanwhile
    now_s[0] = 20.0
    assert watch.wrong() is None
    watch.over("j/0")
    watch.over("j/0")
    now_s[0] = 100.0
    assert watch.wrong() is None


def test_an_attempt_is_watched_whatever_its_keeper_does() -> None:
    """The keeper may hang as well, in a renewal that nobody answers: a lease of an hour keeps it quiet here."""
    now_s, runner, store = [0.0], Hangs(), Store()
    work = Work(
        store=store, runner=runner, queue=Queue(), owner="w", now=lambda: NOW, lease_s=3600.0,
        watch=Watch(now_s=lambda: now_s[0]),
    )  # fmt: skip
    thread = threading.Thread(target=work.on, args=("j/0",))
    thread.start()
    assert runner.begun.wait(_PATIENCE_S)
    now_s[0] = longest_s(SPEC)
    assert work.watch.wrong() is None
    now_s[0] += 1000.0
    assert "j/0 was to be measured" in (work.watch.wrong() or "")
    runner.go.set()
    thread.join()
    assert work.watch.wrong() is None and store.told


def test_who_was_told_to_stop_has_less_time() -> None:
    now_s, runner = [0.0], Hangs()
    work = Work(
        store=Store(), runner=runner, queue=Queue(), owner="w", now=lambda: NOW, lease_s=0.03,
        watch=Watch(now_s=lambda: now_s[0]),
    )  # fmt: skip
    thread = threading.Thread(target=work.on, args=("j/0",))
    thread.start()

    def hurried() -> bool:
        return any(what == "stop" for what, _ in list(work.watch._under_way.values()))

    until = time.monotonic() + _PATIENCE_S
    while not hurried():
        assert time.monotonic() < until
        time.sleep(0.01)
    assert work.watch.wrong() is None
    now_s[0] = 200.0  # longer than a stop may take, shorter than a measurement
    assert "was to stop" in (work.watch.wrong() or "")
    runner.go.set()
    thread.join()


def test_a_process_in_time_is_left_alone() -> None:
    left: list[str] = []
    watch = Watch()
    with ended_when_late(watch, every_s=0.01, leave=left.append):
        watch.expect("j/0", "be measured", 3600.0)
        time.sleep(0.1)
    assert not left


PROCESS = """
import os, sys, threading, time
from controlplane.model.tuning import Renewal
from tests.unit.tuner.work.test_watch import NOW, Queue, Store
from tuner import work as module
from tuner.measure.engine.process import GuardedProcess
from tuner.watch import ended_when_late

begun = threading.Event()

class CancelledOnceBegun(Store):
    def renew(self, leased, *, seconds, now):
        return Renewal(ours=True, cancelled=begun.is_set())

class Runner:
    def run(self, leased, spec, *, stop):
        engine = GuardedProcess([sys.executable, "-m", "controlplane.testing.fake_engine", "--daemon"], dict(os.environ))
        while not engine.log(): time.sleep(0.02)
        print(engine._guard.pid, engine.pid, flush=True)
        begun.set()
        threading.Event().wait()

module._LATE_S = 0.2
work = module.Work(store=CancelledOnceBegun(), runner=Runner(), queue=Queue(), owner="w", now=lambda: NOW, lease_s=0.03)
with ended_when_late(work.watch, every_s=0.05):
    work.on("j/0")
"""


def test_a_process_in_which_a_runner_hangs_ends_and_takes_its_engine_along() -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [sys.executable, "-c", PROCESS]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        pids = [int(word) for word in child.stdout.readline().split()]
        try:
            assert child.wait(_PATIENCE_S) == GAVE_UP
        finally:
            child.kill()
        said = child.stderr.read()
    assert "trial j/0 was to stop" in said, said
    until = time.monotonic() + _PATIENCE_S
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < until, pids
        time.sleep(0.05)
    assert len(pids) == 2


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
