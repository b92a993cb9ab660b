"""CPU seconds used so far by each part of the development cluster and by the installed operator's pods."""

from __future__ import annotations

import os
from pathlib import Path

from devcluster.cluster import Cluster

COMPONENTS = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kwok")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def _process_cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S  # utime, stime


def _pids_of_pods(uids: list[str]) -> list[int]:
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            groups = (entry / "cgroup").read_text()
        except OSError:
            continue
        # kubelet names the pod's cgroup after its uid, with underscores under the systemd driver.
        if any(uid in groups or uid.replace("-", "_") in groups for uid in uids):
            pids.append(int(entry.name))
    return pids


class ClusterCpu:
    """Snapshots of one cluster; the difference of two is what happened in between."""

    def __init__(self, cluster: Cluster, operator_pod_uids: list[str]) -> None:
        self._pids = {name: [cluster.find(name).pid] for name in COMPONENTS}
        self._pids["operator"] = _pids_of_pods(operator_pod_uids)
        if not self._pids["operator"]:
            raise RuntimeError("no process of the installed operator found; run `make up` first")

    def read_s(self) -> dict[str, float]:
        return {name: sum(map(_process_cpu_s, pids)) for name, pids in self._pids.items()}
