"""PostgreSQL, Redis, one driver and some workers as processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from controlplane.store.database import Database, open_database
from controlplane.store.migrate import upgrade
from tests.servers import Redis, postgresql, redis

# Environment variable with the process id of whoever started a process that is to end with it.
PARENT = "TRIMTAB_TEST_PARENT"


@dataclass(slots=True)
class Cluster:
    """`processes` by name; a killed one is started again under the same name by `start`. `commands`: of processes that
    are neither driver nor worker, by name."""

    url: str
    database: Database
    broker: Redis
    folder: Path
    log: IO[bytes]
    engines: bool
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        command = self.commands.get(name) or self._command(name)
        env = os.environ | {PARENT: str(os.getpid())}
        self.processes[name] = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, start_new_session=True, env=env
        )

    def _command(self, name: str) -> list[str]:
        role = "driver" if name.startswith("driver") else "worker"
        command = [sys.executable, "-m", "tests.perf.tuning_process", role, self.url, self.broker.url, name]
        if self.engines and role == "worker":
            command.append(str(self.folder))
        return command

    def kill(self, name: str) -> None:
        """As the machine does when it needs memory: this process, at once, nobody else."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


@contextmanager
def cluster(workers: int, *, engines: bool = False) -> Iterator[Cluster]:
    """Started, and gone afterwards. Raises ServerMissing."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-bench-")))
        url = stack.enter_context(postgresql())
        broker = stack.enter_context(redis())
        log = stack.enter_context((folder / "log").open("wb"))
        database = open_database(url)
        stack.callback(database.close)
        upgrade(database)
        made = Cluster(url, database, broker, folder, log, engines)
        stack.callback(made.close)
        for name in ("driver", *(f"worker{i}" for i in range(workers))):
            made.start(name)
        yield made


def alive(pid: int) -> bool:
    """Whether a process exists that is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(done: Callable[[], bool], within_s: float, every_s: float = 0.05) -> bool:
    """Whether `done()` came true in time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if done():
            return True
        time.sleep(every_s)
    return False
