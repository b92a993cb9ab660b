"""Other readings of what a table does not say: how far its error moves when one assumption changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from controlplane.model.training import TrainingCase

Variant = Callable[[TrainingCase], TrainingCase]


def plan(**changes: Any) -> Variant:
    """The same run with some of the plan's fields changed."""
    return lambda case: replace(case, plan=replace(case.plan, **changes))


def pools(**changes: Any) -> Variant:
    """The same run on pools with some fields changed."""
    return lambda case: replace(case, pools=tuple(replace(pool, **changes) for pool in case.pools))


def not_interleaved(case: TrainingCase) -> TrainingCase:
    """One chunk per stage."""
    return replace(case, plan=replace(case.plan, vpp=1, schedule="1f1b", overlap_pp=False))


# Per table the readings beside the one its loader takes; what a case cannot have is left out of that reading.
VARIANTS: dict[str, dict[str, Variant]] = {
    "ptdp": {
        "32-bit gradients": plan(gradient_bytes=4), "micro-batch 1": plan(micro_batch=1),
        "Megatron-LM of today": plan(framework="megatron-lm"),
        "not interleaved": not_interleaved, "flash attention": plan(attention="flash"),
    },
    "korthikanti": {"16-bit gradients": plan(gradient_bytes=2), "Megatron-LM of 2021": plan(framework="megatron-lm-2021")},
    "korthikanti_dp": {"16-bit gradients": plan(gradient_bytes=2), "optimizer state sharded": plan(zero=1)},
    "megascale": {
        "full recomputation": plan(recompute="full"), "16-bit gradients": plan(gradient_bytes=2),
        "4 NICs per node": pools(nics_per_node=4), "stage transfers not overlapped": plan(overlap_pp=False),
        "flash attention": plan(attention="flash", recompute="none"), "optimizer state sharded": plan(zero=1),
    },
    "megascale_weak": {
        "full recomputation": plan(recompute="full"), "16-bit gradients": plan(gradient_bytes=2),
        "stage transfers not overlapped": plan(overlap_pp=False), "optimizer state sharded": plan(zero=1),
    },
    "h100_weak": {
        "micro-batch 1": plan(micro_batch=1), "micro-batch 2": plan(micro_batch=2), "micro-batch 4": plan(micro_batch=4),
        "not interleaved": not_interleaved, "tensor-parallel traffic not overlapped": plan(overlap_tp=False),
    },
    "h100_strong": {
        "micro-batch 2": plan(micro_batch=2), "not interleaved": not_interleaved,
        "tensor-parallel traffic not overlapped": plan(overlap_tp=False), "gradients not overlapped": plan(overlap_dp=False),
    },
    "zerobubble": {"16-bit gradients": plan(gradient_bytes=2), "flash attention": plan(attention="flash")},
    "vocab": {"16-bit gradients": plan(gradient_bytes=2), "unfused attention": plan(attention="unfused")},
    "torchtitan": {"700 W boards": pools(power_cap_w=None), "16-bit gradients": plan(gradient_bytes=2)},
    "llama3": {"not interleaved": not_interleaved, "tensor-parallel traffic overlapped": plan(overlap_tp=True)},
    "sailor": {"16-bit tensors": plan(precision="fp16")},
    "amp": {"full recomputation": plan(recompute="full"), "16-bit gradient reduction": plan(gradient_bytes=2)},
}  # fmt: skip
