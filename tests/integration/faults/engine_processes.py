"""Processes of an engine pod as this machine sees them, and requests to it from inside the cluster's network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from devcluster.cluster import Cluster
from devcluster.network import enter

_PROGRAM = b"trimtab-engine"


def processes_of(pod: Any) -> list[int]:
    """Ids of a pod's processes, its pause apart, oldest first: the server, then the engine it started."""
    uid = pod["metadata"]["uid"]
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            groups = (entry / "cgroup").read_text()
            program = (entry / "cmdline").read_bytes().split(b"\0")[0]
            started = int((entry / "stat").read_text().rpartition(")")[2].split()[19])
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked
        if uid in groups and not program.endswith(b"pause") and program:
            found.append((started, int(entry.name)))
    return [pid for _, pid in sorted(found)]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def ask(cluster: Cluster, url: str, body: dict[str, Any] | None = None, timeout_s: float = 20) -> str:
    """The answer's text; empty when there is none. ClusterIPs and pod addresses answer only in there."""
    data = [] if body is None else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    command = [*enter(cluster.plan), "curl", "-s", "--noproxy", "*", "--fail", "-m", str(timeout_s), *data, url]
    return subprocess.run(command, text=True, capture_output=True, check=False).stdout


def completes(cluster: Cluster, base_url: str, tokens: int = 4) -> bool:
    """Whether a completion of so many tokens comes back whole."""
    body = {"model": "tiny-random-llama", "prompt": [400, 401, 402], "max_tokens": tokens, "ignore_eos": True}
    answer = ask(cluster, f"{base_url}/v1/completions", body)
    return bool(answer) and json.loads(answer)["usage"]["completion_tokens"] == tokens


def metric(cluster: Cluster, base_url: str, name: str) -> float:
    """Sum over the labels of one metric; 0 without an answer."""
    lines = ask(cluster, f"{base_url}/metrics").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
