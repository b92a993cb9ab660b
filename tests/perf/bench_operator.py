"""The operator process with 1,000 nodes, 10,000 pods and 2,000 custom resources: memory, and CPU while nothing happens.

The process is `trimtab operator` as shipped, with leader election, against the fake API server in this process; a few
lines stand in for the scheduler and the kubelets. First it places and creates the pods of 1,990 ServingDeployments
(8,010 pods of other people are there already), then it is left alone but for node heartbeats, one per node in five
minutes as kubelets send them (nodeStatusReportFrequency). `rss_mb`: resident memory then. `idle_cpu_pct`: its CPU,
in percent of one core, over three windows.
"""

from __future__ import annotations

import asyncio
import copy
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from controlplane.testing.fake_api_server.server import FakeApiServer
from tests.perf.pod_json import pod
from tests.perf.report import Emit, from_samples

NODES = 1_000
PODS = 10_000
POOLS = 10
DEPLOYMENTS = 1_990
NAMESPACES = 20
GPUS_PER_NODE = 8
WINDOWS = 3
WINDOW_S = 20.0
HEARTBEAT_PERIOD_S = 300.0
BOOKMARK_EVERY = 200  # heartbeats: a minute, as the API server sends bookmarks
CONVERGE_LIMIT_S = 240.0
NOW = "2026-01-01T00:00:00Z"


def _node(number: int) -> dict[str, Any]:
    name = f"gpu-{number:04d}"
    amounts = {"cpu": "192", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": str(GPUS_PER_NODE)}
    # As many labels as GPU Feature Discovery and Node Feature Discovery leave on a node.
    found = {f"feature.node.kubernetes.io/cpu-cpuid.F{flag:02d}": "true" for flag in range(40)}
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": "amd64",
        "bench/pool": f"pool-{number % POOLS}",
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
        "nvidia.com/gpu.memory": "81559",
        "network.topology.nvidia.com/leaf": f"leaf-{number // 8}",
        "network.topology.nvidia.com/spine": f"spine-{number // 64}",
        **found,
    }
    conditions = [{"type": kind, "status": "False"} for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")]
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": NOW}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {"allocatable": amounts, "capacity": amounts, "conditions": [*conditions, ready]},
    }


def _foreign_pod(number: int) -> dict[str, Any]:
    made = pod(number)
    made["metadata"] = {
        key: value
        for key, value in made["metadata"].items()
        if key not in {"labels", "ownerReferences", "resourceVersion", "annotations"}
    }
    made["metadata"]["name"] = f"other-{number:05d}"
    made["spec"]["nodeName"] = f"gpu-{number % NODES:04d}"
    for container in made["spec"]["containers"]:
        container["resources"] = {"requests": {"cpu": "1", "memory": "1Gi"}}
    return made


def _pool(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": f"pool-{number}"},
        "spec": {"nodeSelector": {"matchLabels": {"bench/pool": f"pool-{number}"}}, "spareNodes": 1},
    }


def _deployment(number: int) -> dict[str, Any]:
    choice = {"accelerator": "h100-sxm-80gb", "engine": "vllm", "tensorParallel": 1}
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ServingDeployment",
        "metadata": {"name": f"chat-{number:04d}", "namespace": f"team-{number % NAMESPACES:02d}"},
        "spec": {
            "model": {"name": "llama-3.1-8b", "source": "hf:meta-llama/Llama-3.1-8B-Instruct"},
            "explicit": {"choices": [choice]},
            "replicas": 1,
        },
    }


class _Cluster:
    """The fake API server with a stand-in for scheduler and kubelets: a created pod is bound and Ready at once."""

    def __init__(self) -> None:
        self.api = FakeApiServer()
        self.ready: set[str] = set()
        self.done = asyncio.Event()
        self._hands: set[asyncio.Handle] = set()

    def fill(self) -> None:
        storage = self.api.storage
        for number in range(NODES):
            storage.put("/v1/nodes", _node(number))
        for number in range(PODS - DEPLOYMENTS):
            storage.put("/v1/pods", _foreign_pod(number))
        for number in range(POOLS):
            storage.put("trimtab.dev/v1alpha1/gpupools", _pool(number))
        for number in range(DEPLOYMENTS):
            storage.put("trimtab.dev/v1alpha1/servingdeployments", _deployment(number))
        storage.listeners.append(self._changed)

    def _changed(self, change: Any) -> None:
        if change.collection == "/v1/pods" and change.type == "ADDED":
            asyncio.get_running_loop().call_soon(self._run_pod, change.after)
        elif change.collection == "trimtab.dev/v1alpha1/servingdeployments":
            conditions = change.after.get("status", {}).get("conditions", ())
            if any(item["type"] == "Ready" and item["status"] == "True" for item in conditions):
                self.ready.add(f"{change.after['metadata']['namespace']}/{change.after['metadata']['name']}")
                if len(self.ready) == DEPLOYMENTS:
                    self.done.set()

    def _run_pod(self, created: dict[str, Any]) -> None:
        running = copy.deepcopy(created)
        affinity = created["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        running["spec"]["nodeName"] = affinity["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]
        running["status"] = {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "startTime": NOW,
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": NOW}
                for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
            ],
            "containerStatuses": [{"name": "engine", "ready": True, "restartCount": 0, "state": {"running": {}}}],
        }
        self.api.storage.put("/v1/pods", running)

    async def heartbeats(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(HEARTBEAT_PERIOD_S / NODES)
            number += 1
            name = f"gpu-{number % NODES:04d}"
            node = copy.deepcopy(self.api.storage.get("/v1/nodes", "", name))
            node["status"]["conditions"][-1]["lastHeartbeatTime"] = (
                f"2026-01-01T01:{number // 60 % 60:02d}:{number % 60:02d}Z"
            )
            self.api.storage.put("/v1/nodes", node)
            if number % BOOKMARK_EVERY == 0:
                self.api.watches.bookmark()


def _rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024 / 1e6


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kubeconfig(port: int, folder: Path) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        f"""apiVersion: v1
kind: Config
clusters: [{{name: fake, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: bench, user: {{token: bench}}}}]
contexts: [{{name: bench, context: {{cluster: fake, user: bench}}}}]
current-context: bench
""",
        encoding="ascii",
    )
    return path


async def _measure() -> tuple[list[float], list[float]]:
    cluster = _Cluster()
    cluster.fill()
    async with cluster.api as api:
        with tempfile.TemporaryDirectory() as folder:
            environment = {
                **os.environ,
                "TRIMTAB_KUBECONFIG": str(_kubeconfig(api.port, Path(folder))),
                "TRIMTAB_PORT": "0",
                "TRIMTAB_LOG_LEVEL": "warning",
            }
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "controlplane", "operator", env=environment
            )
            try:
                return await _watch(cluster, process)
            finally:
                if process.returncode is None:
                    process.terminate()
                    await process.wait()


async def _watch(cluster: _Cluster, process: asyncio.subprocess.Process) -> tuple[list[float], list[float]]:
    start = time.monotonic()
    ended = asyncio.create_task(process.wait())
    done = asyncio.create_task(cluster.done.wait())
    await asyncio.wait({ended, done}, timeout=CONVERGE_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
    if not done.done():
        raise RuntimeError(f"{len(cluster.ready)} of {DEPLOYMENTS} ready after {time.monotonic() - start:.0f} s")
    pid = process.pid
    sys.stderr.write(
        f"{DEPLOYMENTS} deployments ready after {time.monotonic() - start:.0f} s, "
        f"{_cpu_s(pid):.1f} s of CPU, {_rss_mb(pid):.0f} MB; idle for {WINDOWS * WINDOW_S:.0f} s now\n"
    )
    beats = asyncio.create_task(cluster.heartbeats())
    await asyncio.sleep(WINDOW_S / 2)
    memory, cpu = [], []
    for _ in range(WINDOWS):
        before, since = _cpu_s(pid), time.monotonic()
        await asyncio.sleep(WINDOW_S)
        cpu.append((_cpu_s(pid) - before) / (time.monotonic() - since) * 100)
        memory.append(_rss_mb(pid))
    for task in (beats, ended, done):
        task.cancel()
    return memory, cpu


def run(emit: Emit) -> None:
    memory, cpu = asyncio.run(_measure())
    emit(from_samples("operator", "rss_mb", memory, "MB", 300.0, "lower"))
    emit(from_samples("operator", "idle_cpu_pct", cpu, "percent of a core", 2.0, "lower"))
