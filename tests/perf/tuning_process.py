"""A worker or a driver of tuning jobs as a process, with runners that cost nothing.

`python -m tests.perf.tuning_process worker|driver DATABASE BROKER NAME [ENGINES]`. With the folder ENGINES each trial
holds the one file lock of its machine and a child process in the place of an engine, so that what is left over or
shared can be counted.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from controlplane.loops.tuning import TuningDriver
from controlplane.loops.tuning_runs import DriverProcess
from controlplane.model.ports import StopSignal, TrialRunner
from controlplane.model.tuning import LeasedTrial, Outcome
from controlplane.model.tuning_job import TuningSpec
from controlplane.store.database import open_database
from controlplane.store.trials import Trials
from controlplane.testing.null_runner import NullRunner, NullSampler, digest_of
from tests.perf.tuning_cluster import PARENT, alive
from tuner.tasks import JOBS, TRIALS, CeleryQueue, make_app, serve
from tuner.work import Work

LEASE_S = 3.0
SWEEP_S = 0.5
_LOOK_S = 0.5
_PR_SET_PDEATHSIG = 1


class EngineRunner:
    """A null trial with an engine: a process of its own that dies with its worker, on hardware that is locked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._libc = ctypes.CDLL(None, use_errno=True)

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        hardware = self._folder / f"gpu{leased.number % spec.parallel}"
        with hardware.open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if stop.wait(0.01):
                        return NullRunner(1.0).run(leased, spec, stop=stop)
            parent = os.getpid()
            engine = subprocess.Popen(["sleep", "600"], preexec_fn=lambda: self._die_with(parent))
            try:
                self._record("engines", f"{hardware.name} {engine.pid}")
                last = lock_owner(hardware)
                if last is not None and alive(last):
                    self._record("shared", f"{hardware.name} {last} {engine.pid}")
                hardware.write_text(str(engine.pid))
                return NullRunner(0.02).run(leased, spec, stop=stop)
            finally:
                engine.kill()
                engine.wait()

    def _record(self, name: str, line: str) -> None:
        with (self._folder / name).open("a") as log:
            log.write(line + "\n")

    def _die_with(self, parent: int) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died between our birth and our wish


def lock_owner(hardware: Path) -> int | None:
    """Process id of the engine that had this hardware last."""
    text = hardware.read_text()
    return int(text) if text else None


def end_with(parent: int) -> None:
    """Whoever started this one may be killed and then stops nobody. Not by PR_SET_PDEATHSIG: that is sent when a thread
    of it ends."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def main(role: str, url: str, broker: str, name: str, engines: str | None = None) -> None:
    logging.basicConfig(level=logging.WARNING, format=f"{name} %(asctime)s %(message)s")
    if PARENT in os.environ:
        end_with(int(os.environ[PARENT]))
    database = open_database(url)

    if role == "worker":
        runner: TrialRunner = EngineRunner(Path(engines)) if engines else NullRunner()
        queue = CeleryQueue(make_app(broker))
        work = Work(store=Trials(database), runner=runner, queue=queue, owner=name, now=database.now, lease_s=LEASE_S)
        serve(make_app(broker, trial=work.on), TRIALS, name=name)
    else:
        driver = TuningDriver(
            database=database,
            queue=CeleryQueue(make_app(broker)),
            sampler=lambda spec: NullSampler(spec.seed),
            canonical=lambda spec: digest_of,
            now=database.now,
        )
        process = DriverProcess(driver, sweep_s=SWEEP_S)
        process.start()
        serve(make_app(broker, job=process.step), JOBS, name=name)


if __name__ == "__main__":
    main(*sys.argv[1:])
