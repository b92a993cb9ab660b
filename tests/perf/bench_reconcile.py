"""ServingDeployments against native Deployments of the same pod, Service and budget, interleaved, on the real cluster.

Needs `make up`; takes about 15 minutes. The nodes are simulated (kwok) and both sides use the same ones. `vs_native`
and `vs_native_cpu` are ratios of neighbouring runs, ours better above 1. RECONCILE_OBJECTS and RECONCILE_RUNS make a
smaller trial of it.
"""

from __future__ import annotations

import asyncio
import os

from controlplane.kube import KubeClient, load_access
from devcluster.cluster import Cluster
from tests.perf import runtime_cpu
from tests.perf.cluster_cpu import ClusterCpu
from tests.perf.reconcile_run import Bench, Outcome
from tests.perf.report import Emit, from_samples

NAMESPACES = 20
OBJECTS = int(os.environ.get("RECONCILE_OBJECTS", "1000"))
RUNS = int(os.environ.get("RECONCILE_RUNS", "3"))


async def _pairs(cluster: Cluster) -> list[tuple[Outcome, Outcome]]:
    async with KubeClient(await load_access(cluster.kubeconfig), timeout_s=60.0) as client:
        bench = Bench(client, lambda uids: ClusterCpu(cluster, uids), OBJECTS, NAMESPACES)
        await bench.prepare()
        try:
            return [(await bench.ours(), await bench.native()) for _ in range(RUNS)]
        finally:
            await bench.tidy()


def run(emit: Emit) -> None:
    """Emit the five figures of the bench."""
    cluster = Cluster.open(os.environ.get("TRIMTAB_CLUSTER", "dev"))
    pairs = asyncio.run(_pairs(cluster))
    rates = [native.wall_s / ours.wall_s for ours, native in pairs]
    # The operator idles beside native Deployments; its share there is its price too, and counts on both sides.
    cpu = [sum(native.cpu_s.values()) / sum(ours.cpu_s.values()) for ours, native in pairs]
    writes = [ours.operator_writes / OBJECTS for ours, _ in pairs]
    own_ms = [ours.cpu_s["operator"] / OBJECTS * 1e3 for ours, _ in pairs]
    emit(from_samples("reconcile", "vs_native", rates, "ratio", 1.2, "higher"))
    emit(from_samples("reconcile", "vs_native_cpu", cpu, "ratio", 1.3, "higher"))
    emit(from_samples("reconcile", "writes_per_object", writes, "writes", 6, "lower"))
    emit(from_samples("reconcile", "operator_cpu_ms_per_object", own_ms, "ms", 3, "lower"))
    runtime_cpu.run(emit, str(cluster.kubeconfig))
