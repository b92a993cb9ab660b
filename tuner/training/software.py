"""What a framework does that shows in a step: kernels per layer, passes over activations, gradient handling.

These are counts of what the code launches, read from the frameworks' transformer layers, not fitted values:
Megatron-DeepSpeed of 2022 runs bias, dropout, residual and activation as separate kernels; Megatron-LM fuses them and
accumulates gradients inside the weight-gradient GEMM; FSDP training code fuses nothing unless it is compiled.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.model.training import Framework


@dataclass(frozen=True, slots=True)
class Software:
    """`forward_slots`: kernels of one layer's forward pass as the host sees them; backward takes twice as many.
    `elementwise`: bytes moved by kernels that are not GEMMs, relative to one kernel per operation.
    `accumulate_bytes`: moved per parameter and micro-batch to add a gradient to the sum, beyond writing it."""

    forward_slots: float
    elementwise: float
    accumulate_bytes: float
    handovers: float


_ALL: dict[str, Software] = {
    "megatron-deepspeed": Software(30.0, 1.3, 8.0, 1.0),
    "megatron-lm": Software(18.0, 1.0, 8.0, 0.5),
    "fsdp": Software(30.0, 2.2, 0.0, 0.5),
    "fsdp-compiled": Software(12.0, 1.2, 0.0, 0.5),
    "eager": Software(40.0, 2.5, 8.0, 0.5),
}


def software(framework: Framework) -> Software:
    """The traits of a framework."""
    return _ALL[framework]
