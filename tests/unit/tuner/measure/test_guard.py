"""An engine never outlives its measurement, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controlplane.model.tuning import Verdict
from tuner.measure.engine.classify import verdict_of
from tuner.measure.engine.process import Ended, GuardedProcess, sweep

ENGINE = [sys.executable, "-m", "controlplane.testing.fake_engine"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


def within(seconds: float, what: object) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def children_of(process: GuardedProcess) -> list[int]:
    from tuner.measure.engine.guard import descendants

    assert process.pid is not None
    return [process.pid, *descendants(process.pid)]


def test_end_takes_everything_along_also_what_left_its_session() -> None:
    process = GuardedProcess([*ENGINE, "--daemon", "--ignore-term"], dict(os.environ))
    assert within(5, lambda: len(children_of(process)) == 2)
    pids = children_of(process)
    ended = process.end(0.2)
    assert ended.asked and ended.exit_code == -signal.SIGKILL
    assert not any(alive(pid) for pid in pids)
    assert any("listening" in line or "config" in line for line in ended.log)


def test_an_end_by_itself_is_seen_with_its_last_words() -> None:
    process = GuardedProcess(
        [*ENGINE, "--die-at-start", "--die-with", "7", "--last-words", "bad flag"], dict(os.environ)
    )
    assert within(5, lambda: process.poll() is not None)
    ended = process.end()
    assert (ended.exit_code, ended.asked) == (7, False)
    assert ended.log[-1] == "bad flag"


def test_what_cannot_be_started() -> None:
    ended = GuardedProcess(["/nowhere/engine"], {}).end()
    assert ended.exit_code is None
    verdict, reason = verdict_of(ended, when="at start")
    assert verdict is Verdict.INFRASTRUCTURE and "/nowhere/engine" in reason


WORKER = """
import os, sys, time
from tuner.measure.engine.process import GuardedProcess
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
import fcntl; fcntl.flock(lock, fcntl.LOCK_EX)
process = GuardedProcess([sys.executable, "-m", "controlplane.testing.fake_engine", "--daemon"], dict(os.environ), locks=[lock])
while len(process.log()) < 2: time.sleep(0.02)
from tuner.measure.engine.guard import descendants
print(process._guard.pid, process.pid, *descendants(process.pid), flush=True)
time.sleep(600)
"""


def worker(lock: Path) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


def finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_killed_worker_leaves_no_process_and_frees_its_hardware_last(tmp_path: Path) -> None:
    import fcntl

    process, pids = worker(tmp_path / "host.lock")
    assert len(pids) == 3
    finish(process)
    with (tmp_path / "host.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the guard lets go when nothing runs any more
        assert not any(alive(pid) for pid in pids[1:])
    assert within(5, lambda: not alive(pids[0]))


def test_worker_and_guard_killed_at_once(tmp_path: Path) -> None:
    process, pids = worker(tmp_path / "host.lock")
    process.kill()
    os.kill(pids[0], signal.SIGKILL)
    process.communicate()
    assert within(5, lambda: not alive(pids[1]))  # the engine dies with its guard
    sweep()  # what it had started is found by its mark
    assert within(5, lambda: not any(alive(pid) for pid in pids))


def test_a_killed_guard_is_an_end() -> None:
    process = GuardedProcess([*ENGINE, "--daemon"], dict(os.environ))
    assert within(5, lambda: len(children_of(process)) == 2)
    pids = children_of(process)
    process._guard.kill()
    assert within(5, lambda: process.poll() is not None)
    process.end()
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        (Ended(137, memory_killed=True), Verdict.INFEASIBLE),
        (Ended(-9, memory_killed=None), Verdict.INFEASIBLE),
        (Ended(-9, memory_killed=False), Verdict.INFRASTRUCTURE),
        (Ended(1, log=("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate",)), Verdict.INFEASIBLE),
        (Ended(1, log=("terminate called: std::bad_alloc",)), Verdict.INFEASIBLE),
        (Ended(1, log=("OSError: [Errno 28] No space left on device",)), Verdict.INFRASTRUCTURE),
        (Ended(1, log=("OSError: [Errno 98] Address already in use",)), Verdict.INFRASTRUCTURE),
        (Ended(1, log=("ModuleNotFoundError: No module named 'vllm'",)), Verdict.INFRASTRUCTURE),
        (Ended(-11), Verdict.INFEASIBLE),
        (Ended(2, log=("serve: --max-num-seqs has no effect",)), Verdict.INFEASIBLE),
        (Ended(-15), Verdict.INFRASTRUCTURE),
        (Ended(None, failed="the guard ended"), Verdict.INFRASTRUCTURE),
    ],
)
def test_causes(ended: Ended, verdict: Verdict) -> None:
    found, reason = verdict_of(ended, when="under load")
    assert found is verdict
    assert "under load" in reason
    assert all(line in reason for line in ended.log)
