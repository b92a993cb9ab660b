"""What accelerators can start: frameworks, number formats and attention kernels.

flash-attn 2 and the fused kernels of cuDNN need compute capability 8.0 (both projects' support tables); a data sheet
without a bf16 rate is a part without bf16.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from controlplane.catalog import Accelerator, load
from controlplane.catalog.frameworks import THEORETICAL, TrainingFramework, training_frameworks
from controlplane.model.errors import Unsupported
from controlplane.model.training import TrainingPool

_NO_FLASH = ("Volta", "Turing")
# Frameworks whose attention kernels are arguments; the others take PyTorch's, which has one that saves memory on Volta.
_OWN_KERNELS = ("megatron-lm", "megatron-zero-bubble")
_PRECISIONS_BESIDE = {"bf16": "fp16, fp32"}


def usual_precision(gpus: Iterable[str]) -> str:
    """bf16, or fp16 where one of the accelerators has that only."""
    return "fp16" if _narrow(_records(gpus)) else "bf16"


def usual_attention(framework: str, gpus: Iterable[str]) -> str:
    """flash, or unfused where a kernel is named to the framework and one of the accelerators has none."""
    return "unfused" if framework in _OWN_KERNELS and _without_flash(_records(gpus)) else "flash"


def check_startable(rules: TrainingFramework, pools: Sequence[TrainingPool], precision: str, attention: str) -> None:
    """Raises Unsupported naming what these accelerators cannot run."""
    found = _records(pool.gpu for pool in pools)
    foreign = [gpu for gpu in found if not rules.runs(gpu)]
    if foreign:
        others = [name for name, row in training_frameworks().items()
                  if name != THEORETICAL and all(map(row.runs, found))]  # fmt: skip
        raise Unsupported(
            f"{rules.framework} does not run on {', '.join(gpu.id for gpu in foreign)}", field="framework",
            value=rules.framework, limit=f"accelerators of {', '.join(rules.runs_on)}",
            hint=f"these run there: {', '.join(others)}" if others else "no framework with a table runs there",
        )  # fmt: skip
    narrow = _narrow(found)
    if narrow and precision in _PRECISIONS_BESIDE:
        raise Unsupported(
            f"{', '.join(gpu.id for gpu in narrow)} has no {precision}", field="precision", value=precision,
            limit=_PRECISIONS_BESIDE[precision], hint="leave it out for fp16, or take other accelerators",
        )  # fmt: skip
    without = _without_flash(found)
    if without and attention == "flash" and rules.framework in _OWN_KERNELS:
        raise Unsupported(
            f"{', '.join(gpu.id for gpu in without)} has no flash attention kernel", field="attention",
            value=attention, limit="unfused", hint="its kernels need compute capability 8.0 (Ampere)",
        )  # fmt: skip


def _records(gpus: Iterable[str]) -> list[Accelerator]:
    return [load().accelerators[gpu] for gpu in dict.fromkeys(gpus)]


def _narrow(found: Iterable[Accelerator]) -> list[Accelerator]:
    return [gpu for gpu in found if gpu.bf16_flop_per_s is None and gpu.fp16_flop_per_s is not None]


def _without_flash(found: Iterable[Accelerator]) -> list[Accelerator]:
    return [gpu for gpu in found if gpu.vendor == "nvidia" and gpu.architecture in _NO_FLASH]
