"""Limits of a container, from made-up /proc and /sys trees of both cgroup versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trimtab_engine.cpu import Host, inspect_host


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_version_2_takes_the_tightest_limit_on_the_way_up(tmp_path: Path) -> None:
    host = inspect_host(
        tree(
            tmp_path,
            {
                "proc/self/cgroup": "0::/kubepods/pod1/box\n",
                "sys/fs/cgroup/kubepods/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/kubepods/pod1/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/kubepods/pod1/box/cpu.max": "max 100000\n",
                "sys/fs/cgroup/kubepods/pod1/memory.max": "1073741824\n",
                "sys/fs/cgroup/kubepods/pod1/box/memory.max": "max\n",
                "proc/cpuinfo": "processor : 0\nflags : fpu sse amx_bf16 avx\n",
            },
        )
    )
    assert host.quota_cpus == 1.5
    assert host.memory_limit_bytes == 1 << 30
    assert host.amx_bf16


def test_version_1_inside_a_namespace(tmp_path: Path) -> None:
    host = inspect_host(
        tree(
            tmp_path,
            {
                "proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/\n1:name=systemd:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
        )
    )
    assert host.quota_cpus == 0.5
    assert host.usable_cpus == 1
    assert host.memory_limit_bytes is None
    assert not host.amx_bf16


def test_nothing_readable_is_no_limit(tmp_path: Path) -> None:
    host = inspect_host(tmp_path)
    assert host == Host(len(os.sched_getaffinity(0)), None, None, False)


@pytest.mark.parametrize("content", ["", "max\n", "abc def\n", "100000 0\n", "-1 100000\n"])
def test_an_odd_quota_is_no_limit(tmp_path: Path, content: str) -> None:
    root = tree(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": content})
    assert inspect_host(root).quota_cpus is None
