"""What a framework does that shows in a step: kernels per layer, passes over activations, gradient handling.

These are counts of what the code launches, read from the frameworks' transformer layers and optimizers, not fitted:
Megatron-DeepSpeed of 2022 runs bias, dropout, residual and activation as separate kernels; Megatron-LM fuses them,
accumulates gradients inside the weight-gradient GEMM and runs that beside the all-reduce of input gradients; FSDP
training code fuses nothing unless it is compiled.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.model.training import Framework


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """`forward_slots`: kernels of one layer's forward pass as the host sees them; backward takes twice as many.
    `elementwise`: bytes moved by kernels that are not GEMMs, relative to one kernel per operation.
    `sums_gradients`: `fused` reads and writes the single-precision sum from the GEMM that makes a gradient, `apart` has
    a kernel that reads gradient and sum and writes the sum, `sharded` adds what the scatter leaves.
    `handovers`: waits per stage boundary. `beside_weights`: backward tensor-parallel traffic runs beside the
    weight-gradient GEMM. `optimizer_bytes`: moved per parameter and step. `flat_copies`: of all weights that a whole
    process holds beside them, as buckets of the gradient reduction and as scratch of the optimizer."""

    forward_slots: float
    elementwise: float
    sums_gradients: str
    handovers: float = 0.5
    beside_weights: bool = False
    optimizer_bytes: float = 28.0  # gradient, master weight and two moments read, three of them written
    flat_copies: float = 0.0

    def accumulate_bytes(self, element_bytes: float, gradient_bytes: float) -> float:
        """Moved per parameter and micro-batch to add a gradient to the sum, beyond writing the gradient."""
        if self.sums_gradients == "sharded":
            return 0.0
        return 2.0 * gradient_bytes + (element_bytes if self.sums_gradients == "apart" else 0.0)


_ALL: dict[str, Software] = {
    "megatron-deepspeed": Software(forward_slots=30.0, elementwise=1.3, sums_gradients="apart", handovers=1.0),
    # Beyond Adam's 28 bytes: the norm reads the gradients, clipping reads and writes them, clearing writes them, and
    # 16-bit weights are made of the master copy.
    "megatron-lm": Software(
        forward_slots=18.0, elementwise=1.0, sums_gradients="fused", beside_weights=True, optimizer_bytes=50.0
    ),
    # Before it overlapped backward traffic and fused gradient sums (late 2021); --fp16 kept sums in 16 bits.
    "megatron-lm-2021": Software(forward_slots=18.0, elementwise=1.0, sums_gradients="apart", optimizer_bytes=50.0),
    # The same kernels in a fork whose schedules split weight gradients off, so nothing runs beside them.
    "megatron-zero-bubble": Software(forward_slots=18.0, elementwise=1.0, sums_gradients="fused", optimizer_bytes=50.0),
    "fsdp": Software(forward_slots=30.0, elementwise=2.2, sums_gradients="sharded"),
    "fsdp-compiled": Software(forward_slots=12.0, elementwise=1.2, sums_gradients="sharded"),
    # PyTorch's own loop: gradient buckets as large as the gradients, and a multi-tensor Adam's scratch.
    "eager": Software(forward_slots=40.0, elementwise=2.5, sums_gradients="apart", flat_copies=2.0),
}


def software(framework: Framework) -> Software:
    """The traits of a framework."""
    return _ALL[framework]
