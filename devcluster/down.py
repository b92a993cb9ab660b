"""Stop a cluster and remove everything it made, whatever state it is in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from devcluster import cgroups, containers, mounts, network, nodes, processes
from devcluster.paths import cache_root
from devcluster.plan import Plan

CNI_RESULTS = Path("/var/lib/cni/results")
_FIRST = ("kubelet", "kwok", "kube-", "forwarder", "coredns")  # kubelets among them, so that nothing starts pods again
_LAST = ("containerd", "etcd")


def remove(plan: Plan, note: Callable[[str], None], purge: bool = False) -> None:
    """Processes, pods, mounts, cgroups, network, files. Each part is repeatable, so an interrupted run is continued.

    The nodes' image stores stay in the cache for the next start, unless `purge`.
    """
    note("stopping processes")
    _end(plan, _FIRST)
    note("stopping pods")
    for node in nodes.all_nodes(plan):
        containers.remove_all(node)
    cgroups.remove(plan.cgroup)
    _end(plan, _LAST)
    processes.end(processes.scan(plan.state), grace_s=0.5)
    for node in nodes.all_nodes(plan):
        containers.sweep_sockets(node, [])
    note("removing mounts and network")
    mounts.unmount_below(plan.state)
    network.remove(plan)
    for node in nodes.all_nodes(plan):
        for file in CNI_RESULTS.glob(f"{nodes.cni_network(node)}-*"):
            file.unlink(missing_ok=True)
    note("removing files")
    if purge:
        purge_image_stores(plan)
    shutil.rmtree(plan.state, ignore_errors=True)
    if plan.state.exists():
        shutil.rmtree(plan.state)


def purge_image_stores(plan: Plan) -> None:
    """Delete what the nodes of a stopped cluster keep in the cache."""
    shutil.rmtree(cache_root() / "nodes" / plan.name, ignore_errors=True)


def _end(plan: Plan, prefixes: tuple[str, ...]) -> None:
    processes.end([p for p in processes.scan(plan.state) if p.component.startswith(prefixes) and p.is_main])


def leftovers(plan: Plan) -> list[str]:
    """What a removed cluster has left behind, in words; empty when it left nothing."""
    found = [f"process {p.pid} ({p.component})" for p in processes.scan(plan.state)]
    found += [f"mount {point}" for point in mounts.below(plan.state)]
    if cgroups.exists(plan.cgroup):
        found.append(f"cgroup {plan.cgroup}")
    if network.exists(plan):
        found.append(f"network {plan.netns}")
    if plan.state.exists():
        found.append(f"folder {plan.state}")
    return found
