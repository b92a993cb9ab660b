"""`trimtab operator` as a process of ours on this machine: it can be killed, frozen and looked at.

Operators are forked from one process that has imported everything already: tests that kill them often start them often.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from tests.integration.faults.rest import eventually

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["pytest", "controlplane.main", "controlplane.cli.operator", "controlplane.operator_process"]
)


def _operator(arguments: list[str], log: str) -> None:
    """The process: what the installed command `trimtab operator` does."""
    from controlplane.main import main

    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["trimtab", "operator", *arguments]
    main()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class LocalOperator:
    """Not started yet. Without `lease_namespace` it leads from the start, so that a restart takes over at once."""

    def __init__(
        self, kubeconfig: Path, images: Mapping[str, str], log: Path, *, lease_namespace: str | None = None
    ) -> None:
        self.log = log
        self.port = free_port()
        self.process: multiprocessing.process.BaseProcess | None = None
        self._arguments = [
            *("--kubeconfig", str(kubeconfig), "--port", str(self.port), "--engine-images", json.dumps(dict(images))),
            *(("--namespace", lease_namespace) if lease_namespace else ("--leader-election", "false")),
        ]

    def start(self) -> None:
        process = _forks.Process(target=_operator, args=(self._arguments, str(self.log)))
        process.start()
        self.process = process  # not before it has a process id: other threads ask for that

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.is_alive()

    @property
    def pid(self) -> int:
        assert self.process is not None
        assert self.process.pid is not None
        return self.process.pid

    def ready(self) -> bool:
        """Its caches are filled."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)

    def wait_ready(self, patience_s: float = 60) -> None:
        eventually(self.ready, patience_s, lambda: f"the operator to be ready:\n{self.tail()}")

    def metric(self, name: str) -> float:
        """Sum over the labels of one metric."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def exit_code(self, patience_s: float) -> int | None:
        """Its exit status once it has ended; None when it has not by then."""
        assert self.process is not None
        self.process.join(patience_s)
        return self.process.exitcode

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """In order, when it still runs."""
        if self.process is None or not self.process.is_alive():
            return
        self.thaw()
        self.process.terminate()
        if self.exit_code(30) is None:
            self.kill()

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.text().splitlines()[-lines:])


class Keeper:
    """Starts an operator again whenever it has ended, as a kubelet does."""

    def __init__(self, operator: LocalOperator, before: Callable[[], None] = lambda: None) -> None:
        self._operator = operator
        self._before = before
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep)
        self.starts = 0

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._operator.stop()
        self._thread.join()
        self._operator.stop()

    def _keep(self) -> None:
        while not self._ended.is_set():
            self._before()
            self._operator.start()
            self.starts += 1
            assert self._operator.process is not None
            self._operator.process.join()


def write_kubeconfig(path: Path, url: str) -> Path:
    """For a server without TLS that asks for no token."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "none"}}],
        "current-context": "c",
    }
    path.write_text(yaml.safe_dump(content))
    return path
