"""500 trials while workers, the driver, Redis, the API and the operator are killed with -9 at random, jobs are paused and
resumed, and messages are repeated and forgotten.

Half of the trials belong to a job that is posted again and again under one Idempotency-Key, half to a TuningJob. API and
operator are the real processes; the Kubernetes API server under them is the fake one, and is not killed. Each trial
starts a child process in the place of an engine, on one of four pieces of hardware. Afterwards: `lost`, trials without
a result; `told_twice`, trials with more than one; `orphan_engines`, engines that outlived their worker;
`shared_hardware`, engines started where another was still alive; `jobs_twice`, jobs beyond the two; `events_missed`,
events that a reader with Last-Event-ID did not get, or got again.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from controlplane.model.tuning import JobState, TrialState
from controlplane.model.tuning_records import TuningJobRecord
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
from controlplane.store.rows import trial_id
from controlplane.store.studies import Studies
from tests.perf.report import Emit, Figure
from tests.perf.tuning_cluster import Cluster, alive, cluster, wait_until
from tests.perf.tuning_faces import NAMESPACE, Faces, faces
from tests.perf.tuning_users import Poster, Reader, Steerer
from tests.servers import ServerMissing
from tuner.tasks import CeleryQueue, make_app

TRIALS = 500
WORKERS = 4
SEED = 6
_LONGEST_S = 1500.0
_PATIENCE_S = 1.0
_AT_ONCE = 3
# For the last events to be read and the last status to be written.
_SETTLE_S = 120.0
# A trial may be hit again and again; what is counted is whether it is forgotten, not whether it is given up.
_ATTEMPTS = 16
_WEIGHTS = {"worker": 6, "driver": 2, "redis": 1, "repeat": 4, "api": 2, "operator": 2, "steer": 2}
# A face that is still starting is killed this often only: they start within seconds, and something shall happen.
_KILLED_STARTING = 0.1


def run(emit: Emit) -> None:
    try:
        found = chaos(TRIALS, SEED)
    except ServerMissing as missing:
        sys.stderr.write(f"not measured: {missing}\n")
        return
    for figure, value in found.items():
        emit(Figure("chaos", figure, value, "count", 0.0, "lower", TRIALS))


def chaos(trials: int, seed: int) -> dict[str, int]:
    """What went wrong, by name."""
    with cluster(WORKERS, engines=True) as here:
        jobs = Jobs(here.database)
        chaos = _Chaos(here, faces(here), trials, random.Random(seed))
        try:
            chaos.until_over()
            chaos.settle()
        finally:
            chaos.users_end()
        for name in [name for name in here.processes if name.startswith(("worker", "driver"))]:
            here.kill(name)
        time.sleep(0.5)
        found = _counted(here, chaos.records(), trials) | chaos.seen()
        sys.stderr.write(f"{dict(chaos.done)}; posts {dict(chaos.poster.statuses)}\n")
        sys.stderr.write("".join(f"{job.name}: {job.counts}\n" for job in jobs.list(tenants=[NAMESPACE])))
    return found


class _Chaos:
    """Two jobs and their users. `done`: acts by name."""

    def __init__(self, here: Cluster, faces: Faces, trials: int, rng: random.Random) -> None:
        self._here, self._faces, self._rng = here, faces, rng
        self._queue = CeleryQueue(make_app(here.broker.url))
        self._readers: dict[str, Reader] = {}
        self._steerer = Steerer(faces, rng)
        self.done: Counter[str] = Counter()
        self._uid = self._steerer.apply(_spec(trials // 2))
        self.poster = Poster(faces, _spec(trials - trials // 2))
        self.poster.start()

    def records(self) -> list[TuningJobRecord]:
        """Both jobs, or those there are."""
        return Jobs(self._here.database).list(tenants=[NAMESPACE])

    def until_over(self) -> None:
        until = time.monotonic() + _LONGEST_S
        while True:
            records = self.records()
            for job in records:
                self._follow(job.id)
            if len(records) > 1 and all(job.state is JobState.DONE for job in records):
                return
            if time.monotonic() > until:
                found = [(job.name, job.state, job.reason, job.counts) for job in records]
                raise RuntimeError(f"not over within {_LONGEST_S:g} s: {found} after {dict(self.done)}")
            self._pause(records)
            at_once = self._rng.randint(1, _AT_ONCE)
            for act in self._rng.choices([*_WEIGHTS], [*_WEIGHTS.values()], k=at_once):
                self._act(act, records)

    def settle(self) -> None:
        """Everything gets up once more, and tells what it knows."""
        for name in ("api", "operator"):
            self._kill(name)
        read = wait_until(lambda: not any(reader.is_alive() for reader in self._readers.values()), _SETTLE_S)
        told = wait_until(lambda: self._steerer.object().get("status", {}).get("state") == "Done", _SETTLE_S)
        posted = self.poster.statuses[200]
        again = wait_until(lambda: self.poster.statuses[200] > posted, _SETTLE_S)
        if not (read and told and again):
            raise RuntimeError(f"after the end: events read {read}, status told {told}, posted again {again}")

    def users_end(self) -> None:
        self.poster.end()
        for reader in self._readers.values():
            reader.end()

    def seen(self) -> dict[str, int]:
        """What users saw that they should not have."""
        wrong = [status for status in self.poster.statuses if status not in (0, 200, 201, 503)]
        if wrong or self._steerer.object()["status"]["jobId"] != self._uid:
            raise RuntimeError(f"answers to the same post: {dict(self.poster.statuses)}")
        log = EventLog(self._here.database)
        missed = sum(
            reader.missed + reader.twice + len(log.after(job, reader.last)) for job, reader in self._readers.items()
        )
        ids = {job.id for job in self.records()}
        return {"jobs_twice": len(ids | self.poster.ids | {self._uid}) - 2, "events_missed": missed}

    def _follow(self, job: str) -> None:
        if job not in self._readers:
            self._readers[job] = Reader(self._faces, job)
            self._readers[job].start()

    def _pause(self, records: list[TuningJobRecord]) -> None:
        """Until the next act: where the machine is slow, some trials shall end between two all the same."""
        before = sum(job.counts.done for job in records)
        time.sleep(self._rng.uniform(0.1, 0.8))
        most_s = self._rng.uniform(0.0, _PATIENCE_S)
        wait_until(lambda: sum(job.counts.done for job in self.records()) > before, most_s)

    def _act(self, act: str, records: list[TuningJobRecord]) -> None:
        if act in ("api", "operator"):
            if not self._faces.ready(act) and self._rng.random() > _KILLED_STARTING:
                self._steerer.settle()
                return
            self._kill(act)
        elif act == "worker":
            self._kill(f"worker{self._rng.randrange(WORKERS)}")
        elif act == "driver":
            self._kill("driver")
        elif act == "redis":
            self._redis()
        elif act == "repeat":
            for job in records:
                for number in self._rng.choices(range(max(job.counts.asked, 1)), k=10):
                    self._queue.trial(trial_id(job.id, number))
                self._queue.job(job.id)
        else:
            turn = self._steerer.turn([job.id for job in records if job.state is not JobState.DONE])
            self.done.update([turn] if turn else [])
            return
        self.done[act] += 1

    def _kill(self, name: str) -> None:
        self._here.kill(name)
        self._here.start(name)

    def _redis(self) -> None:
        self._here.broker.kill()
        if self._rng.random() < 0.5:
            self._here.broker.forget()
        time.sleep(self._rng.uniform(0.0, 0.5))
        self._here.broker.start()


def _spec(trials: int) -> dict[str, Any]:
    """A job of null trials, as a cluster takes it."""
    return {
        "target": {"kind": "command", "command": ["true", "{a}"], "image": "none"},
        "space": {"parameters": [{"kind": "int", "name": "a", "low": 1, "high": 1_000_000}]},
        "objectives": [{"metric": "value"}],
        "budget": {"trials": trials},
        "measuring": {"attempts": _ATTEMPTS},
        "parallel": WORKERS,
        "warmStart": False,
    }


def _counted(here: Cluster, jobs: list[TuningJobRecord], trials: int) -> dict[str, int]:
    lost, twice = trials, 0
    for job in jobs:
        found = Studies(here.database).trials_from(job.id, 0)
        lost -= sum(trial.state is TrialState.DONE for trial in found)
        told: Counter[int] = Counter()
        last = 0
        while events := EventLog(here.database).after(job.id, last):
            last = events[-1].id
            told.update(e.data["trial"] for e in events if e.kind == "told" and e.data["state"] == TrialState.DONE)
        measured = Counter(m.number for m in Studies(here.database).measured(job.id))
        twice += sum(n > 1 for n in told.values()) + sum(n > 1 for n in measured.values())
    started = [int(line.split()[1]) for line in _lines(here.folder / "engines")]
    if len(started) < trials:
        raise RuntimeError(f"{len(started)} engines for {trials} trials: nothing was put to the test")
    return {
        "lost": lost,
        "told_twice": twice,
        "orphan_engines": sum(alive(pid) for pid in started),
        "shared_hardware": len(_lines(here.folder / "shared")),
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
