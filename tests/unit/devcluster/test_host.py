"""Reading the host: processes, mounts, cgroups, preflight, pip's settings."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from devcluster import cgroups, credentials, external, hostpip, lock, mounts, preflight, processes
from devcluster.errors import DevclusterError
from devcluster.paths import write_atomic
from devcluster.processes import Process, Spec

SLEEPER = (sys.executable, "-c", "import time; time.sleep(60)")


def test_a_started_component_is_found_again_by_its_marks_alone(tmp_path: Path) -> None:
    spec = Spec("sleeper", SLEEPER)
    started = processes.ensure(tmp_path, spec)
    try:
        assert processes.find(tmp_path, "sleeper") == started
        assert processes.ensure(tmp_path, spec).pid == started.pid
        assert processes.find(tmp_path / "other", "sleeper") is None
    finally:
        processes.end([started])
    assert processes.find(tmp_path, "sleeper") is None


def test_another_command_line_replaces_the_running_one(tmp_path: Path) -> None:
    first = processes.ensure(tmp_path, Spec("sleeper", SLEEPER))
    second = processes.ensure(tmp_path, Spec("sleeper", (*SLEEPER, "again")))
    try:
        assert second.pid != first.pid
        assert not processes.alive(first)
    finally:
        processes.end([second])


def test_a_component_that_ends_at_once_is_reported_with_its_output(tmp_path: Path) -> None:
    spec = Spec("broken", (sys.executable, "-c", "raise SystemExit('no such port')"))
    with pytest.raises(DevclusterError, match="no such port"):
        processes.start(tmp_path, spec)


def test_a_recycled_process_id_is_never_signalled(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEPER)
    try:
        stale = Process(stranger.pid, start_ticks=1, state="S", component="etcd", argv=())
        assert processes.send(stale, signal.SIGKILL) is False
        processes.end([stale], grace_s=0.1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_mounts_below_a_folder_only(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "a /var/lib/trimtab/dev/x overlay rw 0 0\n"
        "b /var/lib/trimtab/dev2/x overlay rw 0 0\n"
        "c /var/lib/trimtab/dev/with\\040space tmpfs rw 0 0\n"
    )
    assert mounts.below(Path("/var/lib/trimtab/dev"), table) == [
        "/var/lib/trimtab/dev/x",
        "/var/lib/trimtab/dev/with space",
    ]


def fake_v1(root: Path) -> None:
    for controller in ("cpu", "cpuset", "memory"):
        (root / controller).mkdir(parents=True)
        (root / controller / "cgroup.procs").write_text("")
    (root / "cpuset" / "cpuset.cpus").write_text("0-1\n")
    (root / "cpuset" / "cpuset.mems").write_text("0\n")
    (root / "unified").mkdir()
    (root / "unified" / "cgroup.procs").write_text("")
    (root / "unified" / "cgroup.controllers").write_text("")


def test_v1_gets_a_folder_in_every_controller_but_the_unified_one(tmp_path: Path) -> None:
    fake_v1(tmp_path)
    cgroups.ensure("trimtab-dev/node-1", tmp_path)
    assert not cgroups.is_v2(tmp_path)
    for controller in ("cpu", "cpuset", "memory"):
        assert (tmp_path / controller / "trimtab-dev" / "node-1").is_dir()
    assert not (tmp_path / "unified" / "trimtab-dev").exists()
    assert cgroups.exists("trimtab-dev", tmp_path)


def test_v2_hands_the_available_controllers_down(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids misc")
    (tmp_path / "cgroup.subtree_control").write_text("")
    cgroups.ensure("trimtab-dev", tmp_path)
    assert cgroups.is_v2(tmp_path)
    assert (tmp_path / "trimtab-dev").is_dir()
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+pids"  # the last one written to the plain file


def test_removing_a_cgroup_that_never_was_is_fine(tmp_path: Path) -> None:
    fake_v1(tmp_path)
    cgroups.remove("trimtab-x", tmp_path)


def test_no_hierarchy_at_all_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(DevclusterError, match="KUBECONFIG="):
        cgroups.ensure("trimtab-dev", tmp_path)


def test_everything_missing_is_named_at_once() -> None:
    found = preflight.problems(1000, (3, 9), has_apt=False, memory_bytes=2**30, disk_free_bytes=2**30)
    assert len(found) == 5
    assert "not root" in found[0]


def test_a_good_host_has_no_problems() -> None:
    assert preflight.problems(0, (3, 11), True, 8 * 2**30, 50 * 2**30) == []


def test_the_way_out_is_part_of_the_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight.os, "geteuid", lambda: 1000)
    with pytest.raises(DevclusterError, match=r"make up KUBECONFIG=path REGISTRY=host/prefix"):
        preflight.require_host(tmp_path)


def test_a_full_disk_refuses_a_start_and_not_a_removal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight.os, "geteuid", lambda: 0)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    monkeypatch.setattr(preflight.shutil, "which", lambda _: "/usr/bin/apt-get")
    with pytest.raises(DevclusterError, match="free disk"):
        preflight.require_host(tmp_path)
    preflight.require_host(tmp_path, room=False)


def test_every_debian_package_has_a_probe() -> None:
    from devcluster import versions

    assert isinstance(preflight.missing_packages(versions.load()), list)


def test_a_kubeconfig_without_a_registry_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("{}")
    with pytest.raises(DevclusterError, match="cannot pull images"):
        external.check_arguments(str(config), None)
    with pytest.raises(DevclusterError, match="which cluster"):
        external.check_arguments(None, "host/prefix")
    with pytest.raises(DevclusterError, match="no such file"):
        external.check_arguments(str(tmp_path / "none"), "host/prefix")
    assert external.check_arguments(str(config), "host/prefix/") == (config, "host/prefix")


def test_pip_settings_of_the_environment_win_and_unknown_ones_stay_behind() -> None:
    listed = (
        ":env:.index-url='https://mirror.invalid/b'\n"
        "global.index-url='https://mirror.invalid/a'\n"
        "global.timeout='60'\n"
        "install.find-links='/wheels\\n/more'\n"
        "global.target='/somewhere'\n"
    )
    settings = hostpip.parse_settings(listed)
    assert settings == {"index-url": "https://mirror.invalid/b", "timeout": "60", "find-links": "/wheels\n/more"}
    assert "index-url = https://mirror.invalid/b" in hostpip.pip_conf(settings)
    assert "find-links = /wheels\n    /more" in hostpip.pip_conf(settings)


def test_one_lock_has_one_holder(tmp_path: Path) -> None:
    with lock.exclusive("x", tmp_path):
        with pytest.raises(DevclusterError, match="being changed by process"), lock.exclusive("x", tmp_path):
            raise AssertionError("two holders")
        with lock.exclusive("y", tmp_path):
            pass
    with lock.exclusive("x", tmp_path):
        pass


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"


def test_threads_may_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write_atomic, path, "same\n") for _ in range(400)]:
            done.result()
    assert path.read_text() == "same\n"
    assert [left.name for left in tmp_path.iterdir()] == ["resolv.conf"]


def test_kubeconfigs_are_for_root_alone_and_name_the_cluster(tmp_path: Path) -> None:
    text = credentials.kubeconfig_text("dev", "https://10.213.0.2:6443", b"PEM", "admin", "t0ken")
    write_atomic(tmp_path / "c", text, 0o600)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o600
    assert '"current-context": "trimtab-dev"' in text
