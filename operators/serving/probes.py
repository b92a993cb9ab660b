"""How the kubelet watches an engine and how it lets it go: probes, pre-stop hooks, grace period. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.catalog import Engine

PORT_NAME = "http"
_STARTUP_PERIOD_S = 2

# Holds the pod until the engine has nothing running or waiting. A page without the metrics means unknown, not idle:
# then the hook holds until the grace period ends. Arguments: seconds to wait first, URL, metric names.
_WAIT_UNTIL_IDLE = """\
import sys, time, urllib.request, urllib.error
wait_s, url, names = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
time.sleep(wait_s)
while True:
    try:
        page = urllib.request.urlopen(url, timeout=5).read().decode()
        lines = [line for line in page.splitlines() if line.replace("{", " ").split(" ")[0] in names]
        if lines and not any(float(line.rsplit("} ", 1)[-1].split()[-1]) for line in lines):
            break
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            break
    except OSError:
        pass
    time.sleep(1)
"""

# Holds a pod of a gang until its leader has answered its last request. Arguments: host, port.
_WAIT_FOR_LEADER = """\
import socket, sys, time
misses = 0
while misses < 3:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
        misses = 0
    except (ConnectionRefusedError, socket.gaierror):
        misses += 1
    except OSError:
        pass
    time.sleep(1)
"""


def probes(engine: Engine, startup_deadline_s: int) -> dict[str, Any]:
    """Startup, readiness and liveness probe of a pod that answers HTTP.

    Loading takes minutes, so liveness counts only once the engine has been ready; until then the startup probe allows
    `startup_deadline_s`, then the kubelet stops the container.
    """
    ready = {"path": engine.health_path, "port": PORT_NAME}
    alive = {"path": engine.liveness_path or engine.health_path, "port": PORT_NAME}
    return {
        "startupProbe": {
            "httpGet": ready,
            "periodSeconds": _STARTUP_PERIOD_S,
            "timeoutSeconds": 5,
            "failureThreshold": -(-startup_deadline_s // _STARTUP_PERIOD_S),
        },
        "readinessProbe": {"httpGet": ready, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {"httpGet": alive, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def leader_hook(engine: Engine, pre_stop_s: int) -> dict[str, Any]:
    """Pre-stop hook of the pod that answers requests: first time for the Service to stop sending, then, for an engine
    that would cut its requests on SIGTERM, until it is idle."""
    names = [name for name in (engine.metrics.running, engine.metrics.waiting) if name is not None]
    if engine.drain.itself or not names:
        return {"preStop": {"sleep": {"seconds": pre_stop_s}}}
    url = f"http://127.0.0.1:{engine.port}{engine.metrics.path}"
    return _exec(_WAIT_UNTIL_IDLE, [str(pre_stop_s), url, *names])


def worker_hook(engine: Engine, leader: str) -> dict[str, Any]:
    """Pre-stop hook of the other pods of a gang: they compute until the leader has drained."""
    return _exec(_WAIT_FOR_LEADER, [leader, str(engine.port)])


def _exec(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    return {"preStop": {"exec": {"command": ["python3", "-c", script, *arguments]}}}
