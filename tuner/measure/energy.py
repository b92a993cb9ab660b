"""Energy of a run from counters that the machine keeps: CPU packages (powercap, RAPL) and NVIDIA GPUs (NVML).

They count everything on the package or the GPU, so they say something of a run only where it has the host to itself, and
then they say what the whole host used, idle parts among it. Where GPUs are, their counters are needed; packages are added
where they can be read (it takes root). What cannot be read makes the energy unknown, never less.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.measure.definitions import Metrics

METRICS = ("energy_j", "power_mean_w", "joule_per_output_token")
_POWERCAP = Path("/sys/class/powercap")
_DRIVER = Path("/proc/driver/nvidia/gpus")
# A package counter begins again at its range. Longer than this at full power, and nobody knows how often it did.
_PACKAGE_W_MAX = 1_000.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Joules since some moment. `range_j`: where the counter begins again; None: it does not within a run."""

    joules: float
    range_j: float | None = None


Readings = Mapping[str, Reading]


def package_readings(root: Path) -> dict[str, Reading]:
    """Packages and their memory; cores and graphics are within the package. Empty where nothing can be read."""
    out: dict[str, Reading] = {}
    for zone in sorted(root.glob("*-rapl:*")):
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
            if not name.startswith(("package", "dram")):
                continue
            joules = int((zone / "energy_uj").read_text(encoding="ascii")) * 1e-6
            range_j = int((zone / "max_energy_range_uj").read_text(encoding="ascii")) * 1e-6
        except (OSError, ValueError):
            continue
        out[zone.name] = Reading(joules, range_j)
    return out if any(_is_package(zone) for zone in out) else {}


def _is_package(zone: str) -> bool:
    """`intel-rapl:0`; its parts are `intel-rapl:0:1`."""
    return zone.count(":") == 1


def nvml_joules(gpus: Sequence[str]) -> dict[str, float] | None:
    """Energy since the driver was loaded (Volta and newer), by UUID, or by number of all when none is named. None without
    the library, a driver or a counter."""
    try:
        nvml: Any = importlib.import_module("pynvml")  # nvidia-ml-py: not among what Trimtab needs
        nvml.nvmlInit()
    except Exception:  # no library, no driver, no GPU: each in words of its own
        return None
    try:
        handles = {gpu: nvml.nvmlDeviceGetHandleByUUID(gpu) for gpu in gpus} or {
            str(i): nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())
        }
        return {gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) * 1e-3 for gpu, handle in handles.items()}
    except Exception:  # an unknown GPU, or one that is too old to count
        return None
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """What a trial computes on. `gpus`: UUIDs of its GPUs, all of the host when empty; `alone`: nobody else computes on
    the host."""

    gpus: tuple[str, ...] = ()
    alone: bool = True
    powercap: Path = _POWERCAP
    driver: Path = _DRIVER
    gpu_joules: Callable[[Sequence[str]], dict[str, float] | None] = nvml_joules

    def why_not(self) -> str | None:
        """Why the energy of a run cannot be known here; None: it can."""
        if not self.alone:
            return "the host is shared: its counters hold others' energy, too"
        if self._has_gpus():
            missing = "NVML shows no energy counter of the GPUs (it takes the package nvidia-ml-py, Volta or newer)"
            return None if self.gpu_joules(self.gpus) else missing
        if package_readings(self.powercap):
            return None
        return f"no energy counter of a CPU package can be read below {self.powercap} (it takes the hardware and root)"

    def begin(self) -> Run | None:
        """Before the load. None where nothing can be known."""
        readings = self._read()
        return None if readings is None else Run(self, readings, time.monotonic())

    def _has_gpus(self) -> bool:
        return bool(self.gpus) or any(self.driver.glob("*"))

    def _read(self) -> Readings | None:
        if not self.alone:
            return None
        found: dict[str, Reading] = dict(package_readings(self.powercap))
        if self._has_gpus():
            of_gpus = self.gpu_joules(self.gpus)
            if not of_gpus:
                return None
            found |= {gpu: Reading(joules) for gpu, joules in of_gpus.items()}
        return found or None


@dataclass(frozen=True, slots=True)
class Run:
    """A load under way."""

    meter: EnergyMeter
    before: Readings
    begun_s: float

    def end(self) -> tuple[float, float] | None:
        """(joules, seconds) since the beginning. None: a counter is gone, or may have gone round more than once."""
        after, took_s = self.meter._read(), time.monotonic() - self.begun_s
        joules = None if after is None else used_j(self.before, after, took_s)
        return None if joules is None else (joules, took_s)


def used_j(before: Readings, after: Readings, took_s: float) -> float | None:
    """Energy between two readings of the same counters."""
    if before.keys() != after.keys():
        return None
    total = 0.0
    for name, first in before.items():
        grown, range_j = after[name].joules - first.joules, first.range_j
        if range_j is not None and took_s * _PACKAGE_W_MAX >= range_j:
            return None
        if grown < 0:
            if range_j is None:
                return None  # the driver was loaded again
            grown += range_j
        total += grown
    return total


def energy_metrics(used: tuple[float, float] | None, output_tokens: int) -> Metrics:
    """Of one run, tokens of its warm-up among them as the energy is; unknown is None."""
    if used is None or used[1] <= 0:
        return dict.fromkeys(METRICS)
    joules, took_s = used
    return {
        "energy_j": joules,
        "power_mean_w": joules / took_s,
        "joule_per_output_token": joules / output_tokens if output_tokens else None,
    }
