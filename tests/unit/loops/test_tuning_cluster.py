"""Celery over a real Redis: messages lost, repeated and nonsense; a broker that is away holds nobody up."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from redis import Redis as Client

from controlplane.model.tuning import JobState
from controlplane.store.event_log import EventLog
from controlplane.store.jobs import Jobs
from controlplane.store.studies import Studies
from tests.perf.bench_trial_overhead import spec_of, utc_now
from tests.perf.tuning_cluster import Cluster, alive, cluster, wait_until
from tests.servers import ServerMissing
from tuner.tasks import JOBS, TRIALS, CeleryQueue, _guarded, make_app


@pytest.fixture(scope="module")
def here() -> Iterator[Cluster]:
    try:
        with cluster(1) as made:
            yield made
    except ServerMissing as missing:
        pytest.skip(str(missing))


def run(here: Cluster, name: str, trials: int) -> None:
    Jobs(here.database).create(name, tenant="t", name=name, spec=spec_of(trials, 2, 16), now=utc_now())


def over(here: Cluster, name: str) -> bool:
    return wait_until(lambda: Jobs(here.database).get(name).state is not JobState.RUNNING, 90.0)


def finished_once(here: Cluster, name: str, trials: int) -> None:
    record = Jobs(here.database).get(name)
    assert (record.state, record.counts.done) == (JobState.DONE, trials)
    told = [e.data["trial"] for e in EventLog(here.database).after(name, 0) if e.data.get("state") == "done"]
    assert sorted(told) == list(range(trials))
    assert len(Studies(here.database).measured(name)) == trials


def test_repeated_messages_and_nonsense_change_nothing(here: Cluster) -> None:
    app = make_app(here.broker.url)
    queue = CeleryQueue(app)
    run(here, "repeated", 10)
    for _ in range(5):
        for number in range(10):
            queue.trial(f"repeated/{number}")
        queue.job("repeated")
    for what in ("x" * 1000, "nobody/1", "../..", 7, None, {"a": 1}):
        app.send_task(TRIALS, args=[what], queue=TRIALS)
        app.send_task(JOBS, args=[what], queue=JOBS)
    app.send_task("trimtab.unknown", args=[], queue=TRIALS)
    assert over(here, "repeated")
    finished_once(here, "repeated", 10)


def test_a_broker_that_dies_and_forgets_everything_costs_time_only(here: Cluster) -> None:
    run(here, "forgotten", 30)
    assert wait_until(lambda: Jobs(here.database).get("forgotten").counts.done >= 3, 60.0)
    here.broker.kill()
    here.broker.forget()
    time.sleep(0.3)
    here.broker.start()
    assert over(here, "forgotten")
    finished_once(here, "forgotten", 30)


def test_a_broker_that_is_flushed_while_everybody_works_costs_time_only(here: Cluster) -> None:
    run(here, "flushed", 30)
    for done in (3, 12, 20):
        assert wait_until(lambda n=done: Jobs(here.database).get("flushed").counts.done >= n, 60.0)  # type: ignore[misc]
        with Client(host="127.0.0.1", port=here.broker.port) as client:
            client.flushall()
    assert over(here, "flushed")
    finished_once(here, "flushed", 30)


OLDER = """
import sys
import controlplane.store.trials
controlplane.store.trials.PROTOCOL = 0
from tests.perf.tuning_process import main
main("worker", *sys.argv[1:])
"""


def test_a_worker_of_an_older_version_eats_messages_and_measures_nothing(here: Cluster) -> None:
    here.kill("worker0")
    here.commands["older"] = [sys.executable, "-c", OLDER, here.url, here.broker.url, "older"]
    here.start("older")
    with Client(host="127.0.0.1", port=here.broker.port) as client:
        run(here, "older", 4)
        assert wait_until(lambda: Jobs(here.database).get("older").counts.waiting == 2, 60.0)
        for number in range(2):
            CeleryQueue(make_app(here.broker.url)).trial(f"older/{number}")
        assert wait_until(lambda: client.llen(TRIALS) == 0, 60.0)  # eaten by the only worker there is
    here.kill("older")
    here.start("worker0")
    assert over(here, "older")
    finished_once(here, "older", 4)
    owners = {e.data["owner"] for e in EventLog(here.database).after("older", 0) if e.kind == "leased"}
    assert owners == {"worker0"}


STARTER = """
import os, subprocess, sys
code = (
    "import sys, time; from tests.perf.tuning_process import end_with; end_with(int(sys.argv[1]));"
    "print('on', flush=True); time.sleep(60)"
)
child = subprocess.Popen([sys.executable, "-c", code, str(os.getpid())], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_processes_end_with_whoever_started_them_however_that_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        assert starter.stdout.readline() == "on\n" and alive(child)
        starter.kill()
        assert wait_until(lambda: not alive(child), 60.0)


def test_workers_killed_in_the_middle_lose_nothing(here: Cluster) -> None:
    run(here, "killed", 30)
    for done in (2, 8):
        assert wait_until(lambda n=done: Jobs(here.database).get("killed").counts.done >= n, 60.0)  # type: ignore[misc]
        for name in ("worker0", "driver"):
            here.kill(name)
            here.start(name)
    assert over(here, "killed")
    finished_once(here, "killed", 30)


def test_sending_to_a_broker_that_is_away_gives_up_soon() -> None:
    queue = CeleryQueue(make_app("redis://127.0.0.1:1/0"))
    began = time.monotonic()
    queue.trial("j/0")
    queue.job("j")
    assert time.monotonic() - began < 30.0


@pytest.mark.parametrize("what", [None, 7, b"x", ["j/0"], "x" * 129])
def test_messages_that_are_no_id_are_dropped(what: object) -> None:
    called = threading.Event()
    _guarded(lambda trial: called.set())(what)
    assert not called.is_set()
