"""Metrics that training commands print, as the predictor computes them. A metric goes by its usual names; what says no
unit (`step_time`, `throughput`) could be anything and is not known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controlplane.model.training import TrainingCase

_MIB, _GIB, _MB, _GB = 2**20, 2**30, 1e6, 1e9


@dataclass(frozen=True, slots=True)
class Expected:
    """What the predictor says of one iteration. `bytes`: of the fullest device."""

    case: TrainingCase
    seconds: float
    computing_s: float
    exposed_s: float
    bytes: float


@dataclass(frozen=True, slots=True)
class KnownMetric:
    """`less`: a smaller value is better."""

    less: bool
    of: Callable[[Expected], float | None]


def known_metric(name: str) -> KnownMetric | None:
    """None: nobody predicts it."""
    return _BY_NAME.get(_usual(name))


def _usual(name: str) -> str:
    """One spelling: `tokens/s/GPU`, `tokens_per_second_per_device` and `tokens_per_s_per_gpu` are one metric."""
    text = name.lower().replace("/", "_per_").replace("-", "_").replace(".", "_")
    words = [_SAME.get(word, word) for word in text.split("_") if word]
    return "_".join(words)


_SAME = {
    "second": "s", "seconds": "s", "sec": "s", "milliseconds": "ms", "msec": "ms",
    "gpu": "device", "accelerator": "device", "rank": "device", "chip": "device",
    "iteration": "step", "iter": "step", "iterations": "steps", "iters": "steps",
    "samples": "sequences", "examples": "sequences", "sample": "sequence",
    "token": "tokens", "tok": "tokens", "joule": "j", "joules": "j", "tflop": "tflops", "memory": "mem",
}  # fmt: skip


def _tokens(of: Expected) -> float:
    return float(of.case.plan.global_batch * of.case.model.seq)


def _flops(of: Expected) -> float:
    from tuner.training.flops import model_flops  # noqa: PLC0415 - numpy

    return model_flops(of.case.model, of.case.plan.global_batch)


def _utilisation(of: Expected) -> float:
    from controlplane.catalog import load  # noqa: PLC0415
    from tuner.training.columns import peaks  # noqa: PLC0415 - numpy

    peak, _ = peaks(load().accelerators[of.case.pools[0].gpu], of.case.plan.precision)
    return _flops(of) / (of.seconds * of.case.plan.ranks * peak)


def _joules(of: Expected) -> float | None:
    from controlplane.catalog import load  # noqa: PLC0415
    from tuner.training.columns import peaks  # noqa: PLC0415 - numpy
    from tuner.training.energy import case_energy  # noqa: PLC0415
    from tuner.training.flops import recompute_flops  # noqa: PLC0415

    peak, _ = peaks(load().accelerators[of.case.pools[0].gpu], of.case.plan.precision)
    work = _flops(of) + recompute_flops(of.case.model, of.case.plan)
    share = work / (of.seconds * of.case.plan.ranks * peak)
    found = case_energy(of.case, of.seconds, of.computing_s, of.exposed_s, share)
    return None if found is None else found.joules


def _joules_per_token(of: Expected) -> float | None:
    joules = _joules(of)
    return None if joules is None else joules / _tokens(of)


def _per_device(what: Callable[[Expected], float]) -> Callable[[Expected], float]:
    return lambda of: what(of) / of.case.plan.ranks


def _rate(what: Callable[[Expected], float]) -> Callable[[Expected], float]:
    return lambda of: what(of) / of.seconds


def _batch(of: Expected) -> float:
    return float(of.case.plan.global_batch)


_TABLE: tuple[tuple[tuple[str, ...], KnownMetric], ...] = (
    (("step_s", "step_time_s", "s_per_step", "time_per_step_s"), KnownMetric(True, lambda of: of.seconds)),
    (("step_ms", "step_time_ms", "ms_per_step", "time_per_step_ms"), KnownMetric(True, lambda of: of.seconds * 1e3)),
    (("steps_per_s",), KnownMetric(False, lambda of: 1.0 / of.seconds)),
    (("tokens_per_s",), KnownMetric(False, _rate(_tokens))),
    (("tokens_per_s_per_device", "tokens_per_device_per_s"), KnownMetric(False, _per_device(_rate(_tokens)))),
    (("sequences_per_s",), KnownMetric(False, _rate(_batch))),
    (("sequences_per_s_per_device",), KnownMetric(False, _per_device(_rate(_batch)))),
    (("tflops",), KnownMetric(False, lambda of: _flops(of) / of.seconds / 1e12)),
    (
        ("tflops_per_device", "tflops_per_s_per_device"),
        KnownMetric(False, lambda of: _flops(of) / of.seconds / of.case.plan.ranks / 1e12),
    ),
    (("mfu",), KnownMetric(False, _utilisation)),
    (("mfu_pct", "mfu_percent"), KnownMetric(False, lambda of: 100.0 * _utilisation(of))),
    (("energy_j", "step_energy_j", "j_per_step"), KnownMetric(True, _joules)),
    (("j_per_tokens",), KnownMetric(True, _joules_per_token)),
    (("peak_mem_bytes", "max_mem_bytes"), KnownMetric(True, lambda of: of.bytes)),
    (("peak_mem_gib", "max_mem_gib"), KnownMetric(True, lambda of: of.bytes / _GIB)),
    (("peak_mem_gb", "max_mem_gb"), KnownMetric(True, lambda of: of.bytes / _GB)),
    (("peak_mem_mib", "max_mem_mib"), KnownMetric(True, lambda of: of.bytes / _MIB)),
    (("peak_mem_mb", "max_mem_mb"), KnownMetric(True, lambda of: of.bytes / _MB)),
)
_BY_NAME = {name: metric for names, metric in _TABLE for name in names}
