"""Energy counters: packages that begin again, GPUs that do not say, hosts that are shared. All counters here are fakes."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from tuner.measure.energy import EnergyMeter, Reading, energy_metrics, nvml_joules, package_readings, used_j


def fake_zone(root: Path, zone: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850) -> Path:
    folder = root / zone
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (("name", name), ("energy_uj", str(energy_uj)), ("max_energy_range_uj", str(range_uj))):
        (folder / file).write_text(text + "\n")
    return folder


def test_packages_and_their_memory_count_and_nothing_twice(tmp_path: Path) -> None:
    assert package_readings(tmp_path / "absent") == {}
    fake_zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    fake_zone(tmp_path, "intel-rapl:0:0", "core", 900_000)
    fake_zone(tmp_path, "intel-rapl:0:1", "dram", 500_000)
    fake_zone(tmp_path, "intel-rapl:1", "psys", 9_000_000)
    found = package_readings(tmp_path)
    assert {zone: one.joules for zone, one in found.items()} == {"intel-rapl:0": 1.0, "intel-rapl:0:1": 0.5}
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("secret\n")  # memory without its package says nothing
    assert package_readings(tmp_path) == {}


def test_a_counter_that_began_again_and_one_that_may_have_done_so_twice() -> None:
    first, after = {"p": Reading(990.0, 1000.0)}, {"p": Reading(5.0, 1000.0)}
    assert used_j(first, after, 0.5) == pytest.approx(15.0)
    assert used_j(first, after, 1.0) is None
    assert used_j({"g": Reading(9.0)}, {"g": Reading(1.0)}, 1.0) is None
    assert used_j({"g": Reading(9.0)}, {}, 1.0) is None


def test_a_run_on_cpus(tmp_path: Path) -> None:
    meter = EnergyMeter(powercap=tmp_path, driver=tmp_path / "none")
    assert meter.begin() is None and "no energy counter" in str(meter.why_not())
    fake_zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    assert meter.why_not() is None
    run = meter.begin()
    assert run is not None
    fake_zone(tmp_path, "intel-rapl:0", "package-0", 31_000_000)
    used = run.end()
    assert used is not None and used[0] == pytest.approx(30.0)
    assert energy_metrics((30.0, 2.0), 60) == {"energy_j": 30.0, "power_mean_w": 15.0, "joule_per_output_token": 0.5}
    assert set(energy_metrics(None, 60).values()) == {None}
    assert energy_metrics((30.0, 2.0), 0)["joule_per_output_token"] is None
    shared = EnergyMeter(powercap=tmp_path, driver=tmp_path / "none", alone=False)
    assert shared.begin() is None and "shared" in str(shared.why_not())


def test_gpus_need_their_own_counters(tmp_path: Path) -> None:
    fake_zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    readings = iter([{"GPU-a": 100.0}, {"GPU-a": 150.0}])
    run = EnergyMeter(gpus=("GPU-a",), powercap=tmp_path, gpu_joules=lambda _: next(readings)).begin()
    assert run is not None
    used = run.end()
    assert used is not None and used[0] == pytest.approx(50.0)
    (tmp_path / "driver" / "0000:01:00.0").mkdir(parents=True)  # a GPU that nobody named, and no library
    blind = EnergyMeter(powercap=tmp_path, driver=tmp_path / "driver", gpu_joules=lambda _: None)
    assert blind.begin() is None and "nvidia-ml-py" in str(blind.why_not())
    without = EnergyMeter(gpus=("GPU-a",), powercap=tmp_path, gpu_joules=lambda _: None)
    assert without.begin() is None and "NVML" in str(without.why_not())


def test_nvml_is_asked_by_uuid_and_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_joules(["GPU-a"]) is None
    fake = types.ModuleType("pynvml")
    calls: list[str] = []
    fake.nvmlInit = lambda: calls.append("init")  # type: ignore[attr-defined]
    fake.nvmlShutdown = lambda: calls.append("shutdown")  # type: ignore[attr-defined]
    fake.nvmlDeviceGetHandleByUUID = lambda uuid: uuid  # type: ignore[attr-defined]
    fake.nvmlDeviceGetTotalEnergyConsumption = lambda handle: 12_500  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert nvml_joules(["GPU-a"]) == {"GPU-a": 12.5} and calls == ["init", "shutdown"]
    fake.nvmlDeviceGetCount = lambda: 2  # type: ignore[attr-defined]
    fake.nvmlDeviceGetHandleByIndex = lambda i: i  # type: ignore[attr-defined]
    assert nvml_joules([]) == {"0": 12.5, "1": 12.5}

    def too_old(handle: str) -> int:
        raise RuntimeError("Not Supported")

    fake.nvmlDeviceGetTotalEnergyConsumption = too_old  # type: ignore[attr-defined]
    assert nvml_joules(["GPU-a"]) is None and calls[-1] == "shutdown"
