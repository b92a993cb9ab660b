"""Real servers for tests and benchmarks: a private PostgreSQL or Redis each, in a folder of its own, gone afterwards.

Nothing is installed: where a program is missing, `ServerMissing` says which package has it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_S = 60.0


class ServerMissing(Exception):
    """The program is not on this machine."""


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def postgresql() -> Iterator[str]:
    """URL of an empty database. PostgreSQL refuses root, so as root it runs as `postgres` or `nobody`."""
    programs = _postgresql_programs()
    user = _unprivileged()
    with _folder(user) as folder:
        data = folder / "data"
        made = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "trimtab",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
            "--locale=C",
        ]
        subprocess.run([str(part) for part in made], check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)
        port = free_port()
        options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "max_connections=60"]
        with (folder / "log").open("wb") as log:
            command = [str(programs / "postgres"), "-D", str(data), *options]
            server = subprocess.Popen(command, stdout=log, stderr=log, user=user, cwd=folder)
            try:
                _wait(server, port, folder / "log")
                _answers([programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"], server)
                yield f"postgresql://trimtab@127.0.0.1:{port}/postgres"
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(_START_S)


class Redis:
    """A Redis that can be killed and started again on its port. Keeps an append-only file."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        log = self._folder / "log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [self._program, *options, "--appendonly", "yes", "--save", ""], stdout=out, stderr=out, env=_redis_env()
            )
        _wait(self._process, self.port, log)

    def kill(self) -> None:
        """As a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Everything it held; only while it does not run."""
        shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)


@contextmanager
def redis() -> Iterator[Redis]:
    """A running Redis."""
    program = os.environ.get("TRIMTAB_TEST_REDIS") or shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise ServerMissing("no redis-server here (package redis-server, or its path in TRIMTAB_TEST_REDIS)")
    with _folder(None) as folder:
        server = Redis(program, folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()


def _redis_env() -> dict[str, str]:
    """An unpacked package has its libraries beside it."""
    program = os.environ.get("TRIMTAB_TEST_REDIS")
    if program is None:
        return dict(os.environ)
    libraries = Path(program).parents[1] / "lib" / f"{os.uname().machine}-linux-gnu"
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries)}


def _postgresql_programs() -> Path:
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    if found is None:
        raise ServerMissing("no PostgreSQL server here (package postgresql)")
    return Path(found).resolve().parent


def _unprivileged() -> str | None:
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise ServerMissing("PostgreSQL does not run as root, and there is no user postgres or nobody")


@contextmanager
def _folder(user: str | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="trimtab-test-"))
    if user is not None:
        shutil.chown(folder, user)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended at once: {log.read_text(errors='replace')[-500:]}")
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start within {_START_S:g} s")


def _answers(command: list[object], server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and server.poll() is None:
        if subprocess.run([str(part) for part in command], check=False).returncode == 0:
            return
        time.sleep(0.05)
    raise RuntimeError("the server listens and does not answer")
