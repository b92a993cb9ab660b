"""500 trials while workers, the driver and Redis are killed with -9 at random and messages are repeated and forgotten.

Each trial starts a child process in the place of an engine, on one of four pieces of hardware. Afterwards: `lost`,
trials without a result; `told_twice`, trials with more than one; `orphan_engines`, engines that outlived their worker;
`shared_hardware`, engines started where another was still alive.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path

from controlplane.model.tuning import JobState, TrialState
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
from controlplane.store.rows import trial_id
from controlplane.store.studies import Studies
from tests.perf.bench_trial_overhead import spec_of, utc_now
from tests.perf.report import Emit, Figure
from tests.perf.tuning_cluster import Cluster, alive, cluster, wait_until
from tests.servers import ServerMissing
from tuner.tasks import CeleryQueue, make_app

TRIALS = 500
WORKERS = 4
SEED = 6
_LONGEST_S = 560.0
# A trial may be hit again and again; what is counted is whether it is forgotten, not whether it is given up.
_ATTEMPTS = 16


def run(emit: Emit) -> None:
    try:
        found = chaos(TRIALS, SEED)
    except ServerMissing as missing:
        sys.stderr.write(f"not measured: {missing}\n")
        return
    for figure in ("lost", "told_twice", "orphan_engines", "shared_hardware"):
        emit(Figure("chaos", figure, found[figure], "count", 0.0, "lower", TRIALS))


def chaos(trials: int, seed: int) -> dict[str, int]:
    """What went wrong, by name."""
    rng = random.Random(seed)
    with cluster(WORKERS, engines=True) as here:
        jobs = Jobs(here.database)
        jobs.create("j", tenant="bench", name="j", spec=spec_of(trials, WORKERS, _ATTEMPTS), now=utc_now())
        wait_until(lambda: jobs.get("j").counts.done > 0, 60.0)
        done = _until_over(here, jobs, trials, rng)
        for name in list(here.processes):
            here.kill(name)
        time.sleep(0.5)
        found = _counted(here, trials)
        sys.stderr.write(f"{dict(done)}; {jobs.get('j').counts}\n")
    return found


def _until_over(here: Cluster, jobs: Jobs, trials: int, rng: random.Random) -> Counter[str]:
    queue = CeleryQueue(make_app(here.broker.url))
    done: Counter[str] = Counter()
    until = time.monotonic() + _LONGEST_S
    while jobs.get("j").state is JobState.RUNNING:
        if time.monotonic() > until:
            raise RuntimeError(f"not over within {_LONGEST_S:g} s: {jobs.get('j').counts} after {dict(done)}")
        time.sleep(rng.uniform(0.1, 0.8))
        act = rng.choices(["worker", "driver", "redis", "repeat"], [5, 2, 1, 4])[0]
        done[act] += 1
        if act == "worker":
            name = f"worker{rng.randrange(WORKERS)}"
            here.kill(name)
            here.start(name)
        elif act == "driver":
            here.kill("driver")
            here.start("driver")
        elif act == "redis":
            here.broker.kill()
            if rng.random() < 0.5:
                here.broker.forget()
            time.sleep(rng.uniform(0.0, 0.5))
            here.broker.start()
        else:
            asked = jobs.get("j").counts.asked
            for number in rng.choices(range(max(asked, 1)), k=10):
                queue.trial(trial_id("j", number))
            queue.job("j")
    return done


def _counted(here: Cluster, trials: int) -> dict[str, int]:
    found = Studies(here.database).trials_from("j", 0)
    told: Counter[int] = Counter()
    last = 0
    while events := EventLog(here.database).after("j", last):
        last = events[-1].id
        told.update(e.data["trial"] for e in events if e.kind == "told" and e.data["state"] == TrialState.DONE)
    measured = Counter(m.number for m in Studies(here.database).measured("j"))
    started = [int(line.split()[1]) for line in _lines(here.folder / "engines")]
    if len(started) < trials:
        raise RuntimeError(f"{len(started)} engines for {trials} trials: nothing was put to the test")
    return {
        "lost": trials - sum(trial.state is TrialState.DONE for trial in found),
        "told_twice": sum(n > 1 for n in told.values()) + sum(n > 1 for n in measured.values()),
        "orphan_engines": sum(alive(pid) for pid in started),
        "shared_hardware": len(_lines(here.folder / "shared")),
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
