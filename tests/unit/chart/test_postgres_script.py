"""The chart's script for PostgreSQL with a real one: made once, its password that of the Secret, and up again after a kill."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import ServerMissing, _folder, _postgresql_programs, _unprivileged, free_port
from tests.unit.chart.rendering import CHART

# The lock of a container's first process names that of the next one as well, which is the shell that runs the script.
LOCK_OF_THIS_SHELL = 'sed -i "1s/.*/$$/" "$PGDATA/postmaster.pid"\n'
PATIENCE_S = 60.0


@contextmanager
def running(folder: Path, user: str | None, before: str = "") -> Iterator[Callable[[str], str]]:
    """Asks the server in SQL, with this password. Killed at the end."""
    programs, port = _postgresql_programs(), str(free_port())
    script = (CHART / "files" / "tuning" / "postgres.sh").read_text()
    script = script.replace("/tmp", str(folder)).replace("/etc/trimtab/passwords", str(folder))
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PGDATA": str(folder / "data"), "PGPORT": port}
    with (folder / "log").open("wb") as log:
        command = ["/bin/sh", "-euc", before + script]
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, user=user, cwd=folder)

        def ask(password: str) -> str:
            url = ["-h", "127.0.0.1", "-U", "trimtab", "-Atc", "SELECT 1", "trimtab"]
            asked = subprocess.run(
                [programs / "psql", *url], env={**env, "PGPASSWORD": password}, capture_output=True, text=True, check=False
            )  # fmt: skip
            return asked.stdout.strip() or asked.stderr

        try:
            _wait_until_up(programs, port, server, folder / "log")
            yield ask
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()


def _wait_until_up(programs: Path, port: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    ready = [str(programs / "pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={port}"]
    while subprocess.run(ready, check=False).returncode != 0:
        assert server.poll() is None, log.read_text(errors="replace")[-800:]
        assert time.monotonic() < deadline_s, "not up in time"
        time.sleep(0.1)


def _gone(folder: Path) -> None:
    """Processes of a killed server notice it, as they do not have to in a container, which ends with its first one."""
    deadline_s = time.monotonic() + PATIENCE_S
    while any(_opened(Path(entry), folder / "data") for entry in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < deadline_s, "something of the server is left"
        time.sleep(0.1)


def _opened(process: Path, data: Path) -> bool:
    try:
        return (process / "cwd").readlink() == data
    except OSError:
        return False


def test_it_comes_up_again_after_a_kill_and_with_another_password() -> None:
    if not shutil.which("sed"):
        pytest.skip("no sed here")
    try:
        user = _unprivileged()
        _postgresql_programs()
    except ServerMissing as missing:
        pytest.skip(str(missing))
    with _folder(user) as folder:
        secret = folder / "postgresql-password"
        secret.write_text("first")
        secret.chmod(0o644)
        with running(folder, user) as ask:
            assert ask("first") == "1"
        assert (folder / "data" / "postmaster.pid").exists(), "it was killed, and its lock is still there"
        _gone(folder)
        secret.write_text("second")
        with running(folder, user, LOCK_OF_THIS_SHELL) as ask:
            assert ask("second") == "1"
            assert "password authentication failed" in ask("first")
        assert "second" not in (folder / "log").read_text(errors="replace")
