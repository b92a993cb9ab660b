"""What an accelerator reaches of its datasheet: peaks and bandwidth times the share of them that kernels attain.

The shares are few and belong to a class (memory type and vendor), so that an accelerator nobody measured inherits
those of its class. They stand in `data/roofline.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.catalog import Accelerator
from controlplane.model.errors import Unsupported
from tuner.serving.step.roofline_formats import Arithmetic, WeightFormat
from tuner.serving.step.table import Floats

_DATA = Path(__file__).parent.parent / "data" / "roofline.json"
# Smooth transition between the memory-bound and the compute-bound side: kernels near the ridge reach neither limit.
_RIDGE = 4.0


@cache
def constants() -> dict[str, Any]:
    """The data file, read once."""
    loaded: dict[str, Any] = json.loads(_DATA.read_bytes())
    return loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Attainable rates of one accelerator."""

    accelerator: Accelerator
    peaks_flop_per_s: dict[Arithmetic, float]
    bandwidth_bytes_per_s: float
    gemm_share: float
    expert_share: float
    memory_share: float
    attention_share: float
    decode_attention_share: float
    launch_ms: float
    notes: tuple[str, ...] = ()

    def gemm_ms(self, tokens: Floats, inner: float, outer: float, form: WeightFormat) -> Floats:
        """`[tokens, inner] x [inner, outer]`; activations are read once, results written in 16 bits."""
        if inner <= 0 or outer <= 0:
            return np.zeros_like(tokens)
        flops: Floats = 2.0 * tokens * inner * outer
        moved: Floats = inner * outer * form.bytes_per_weight + tokens * (inner * form.activation_bytes + 2.0 * outer)
        return self._ridge_ms(self._compute_ms(flops, form), self._memory_ms(moved)) + self._start_ms(
            tokens * inner, form
        )

    def grouped_gemm_ms(
        self, rows: Floats, groups: Floats, inner: float, outer: float, form: WeightFormat, tile: float
    ) -> Floats:
        """`groups` matrices of one shape, `rows` rows over all of them; a group's rows fill tiles only in part."""
        flops: Floats = 2.0 * (rows + 0.5 * tile * groups) * inner * outer
        moved: Floats = groups * inner * outer * form.bytes_per_weight + rows * (
            inner * form.activation_bytes + 2.0 * outer
        )
        compute_ms = self._compute_ms(flops, form) * self.gemm_share / self.expert_share
        return self._ridge_ms(compute_ms, self._memory_ms(moved)) + self._start_ms(rows * inner, form)

    def traffic_ms(self, moved_bytes: Floats, kernels: float = 1.0) -> Floats:
        """Element-wise work: bytes moved."""
        return self._memory_ms(moved_bytes) + kernels * self.launch_ms

    def attention_ms(self, flops: Floats, moved_bytes: Floats, *, decode: bool) -> Floats:
        """Attention at 16 bits: its own share of the peak and of the bandwidth, and several launches (metadata,
        cache write, the split kernels and their sum)."""
        memory = self.decode_attention_share
        kernels: float = constants()["attention"]["decode_kernels" if decode else "context_kernels"]
        compute_ms = 1e3 * flops / (self.peaks_flop_per_s["bf16"] * self.attention_share)
        memory_ms = 1e3 * moved_bytes / (self.bandwidth_bytes_per_s * memory)
        return self._ridge_ms(compute_ms, memory_ms) + kernels * self.launch_ms

    def _start_ms(self, activations: Floats, form: WeightFormat) -> Floats:
        """The launch, and where activations are scaled at run time the kernel that narrows them before."""
        if form.scaled_at_run_time:
            return 2.0 * self.launch_ms + self._memory_ms(activations * (2.0 + form.activation_bytes))
        return np.full_like(activations, self.launch_ms)

    def _compute_ms(self, flops: Floats, form: WeightFormat) -> Floats:
        share: float = self.gemm_share * constants()["arithmetic_factor"][form.arithmetic]
        if form.weight_only:
            share *= constants()["widening_factor"]["value"]
        if form.word == "fp8_block":
            share *= constants()["block_scale_factor"]["value"]
        return 1e3 * flops / (self.peaks_flop_per_s[form.arithmetic] * share)

    def _memory_ms(self, moved_bytes: Floats) -> Floats:
        return 1e3 * moved_bytes / (self.bandwidth_bytes_per_s * self.memory_share)

    @staticmethod
    def _ridge_ms(compute_ms: Floats, memory_ms: Floats) -> Floats:
        longer = np.maximum(np.maximum(compute_ms, memory_ms), 1e-12)
        ratio = np.minimum(compute_ms, memory_ms) / longer
        return longer * (1.0 + ratio**_RIDGE) ** (1.0 / _RIDGE)


def hardware_of(accelerator: Accelerator) -> Hardware:
    """Attainable rates. Raises Unsupported where no public number tells peak or bandwidth."""
    facts = constants()
    share = facts["classes"][class_of(accelerator)] | facts["accelerators"].get(accelerator.id, {})
    notes: list[str] = []
    peaks = _peaks(accelerator, notes)
    bandwidth = accelerator.memory_bandwidth_bytes_per_s
    if bandwidth is None and accelerator.kind == "cpu":
        bandwidth = float(constants()["cpu_core"]["bandwidth_bytes_per_s"])
        notes.append(f"{accelerator.id}: {bandwidth / 1e9:g} GB/s per core assumed")
    if bandwidth is None:
        raise _unknown(accelerator, "memory bandwidth")
    return Hardware(
        accelerator=accelerator,
        peaks_flop_per_s=peaks,
        bandwidth_bytes_per_s=bandwidth,
        gemm_share=share["gemm_share"],
        expert_share=share["expert_share"],
        memory_share=share["memory_share"],
        attention_share=share["attention_share"],
        decode_attention_share=share["decode_attention_share"],
        launch_ms=share["launch_us"] / 1e3,
        notes=tuple(notes),
    )


def class_of(accelerator: Accelerator) -> str:
    """Class whose shares of the datasheet an accelerator inherits."""
    if accelerator.kind == "cpu":
        return "cpu"
    if accelerator.vendor == "amd":
        return "amd"
    if accelerator.vendor == "intel":
        return "gaudi" if accelerator.architecture.startswith("Gaudi") else "intel-gpu"
    capability = float(accelerator.compute_capability or 0)
    if capability < 8.0:
        return "nvidia-before-ampere"
    if not (accelerator.memory_type or "").startswith("HBM"):
        return "nvidia-gddr"
    return "nvidia-hbm" if capability >= 9.0 else "nvidia-ampere-hbm"


def _peaks(accelerator: Accelerator, notes: list[str]) -> dict[Arithmetic, float]:
    peaks: dict[Arithmetic, float] = {}
    for name in ("bf16", "fp8", "fp4", "int8"):
        peak = accelerator.peak_flop_per_s(name)
        if peak is not None:
            peaks[name] = peak
    if "bf16" not in peaks:
        peaks["bf16"] = _wide_peak(accelerator, peaks, notes)
    return peaks


def _wide_peak(accelerator: Accelerator, peaks: dict[Arithmetic, float], notes: list[str]) -> float:
    """Peak at 16 bits where no bf16 peak is published."""
    if accelerator.fp16_flop_per_s is not None:
        notes.append(f"{accelerator.id} has no bf16 arithmetic: fp16")
        return accelerator.fp16_flop_per_s
    for name, ratio in (("fp8", 2), ("fp4", 4)):
        if name in peaks:
            notes.append(f"{accelerator.id}: bf16 peak taken as its {name} peak / {ratio}")
            return peaks[name] / ratio
    if accelerator.kind == "cpu":
        core = constants()["cpu_core"]
        per_cycle = accelerator.bf16_flop_per_cycle_per_core or core["fp32_flop_per_cycle"]
        notes.append(f"{accelerator.id}: {core['clock_hz'] / 1e9:g} GHz, {per_cycle} operations per cycle assumed")
        return float(per_cycle * core["clock_hz"])
    raise _unknown(accelerator, "peak at 16 bits")


def _unknown(accelerator: Accelerator, what: str) -> Unsupported:
    return Unsupported(
        f"no public document states the {what} of {accelerator.name}",
        field="system",
        value=accelerator.id,
        hint="calibrate on runs of this accelerator, or choose another one",
    )
