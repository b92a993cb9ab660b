"""What a training command trains, and on what: from it follow its space, what cannot fit, and where to look first."""

from __future__ import annotations

from pydantic import Field

from controlplane.model.resource import Part
from controlplane.model.training import Framework, Precision


class TrainingRun(Part):
    """A training run on equal nodes, as far as all its trials have it in common."""

    model: str = Field(min_length=1, max_length=200, description="Model, as the catalogue names it.")
    accelerator: str = Field(
        min_length=1, max_length=100, description="What it trains on, as the catalogue names it (h100, a100-80gb)."
    )
    devices: int = Field(ge=1, le=65_536, description="Accelerators of one trial, on all its nodes together.")
    global_batch: int = Field(ge=1, le=131_072, description="Sequences of one optimizer step, all devices together.")
    sequence_tokens: int = Field(ge=1, le=2**22, description="Tokens of one sequence.")
    devices_per_node: int | None = Field(
        default=None, ge=1, le=1024, description="Accelerators of a node; as the catalogue has it, or 8, when absent."
    )
    nic: str | None = Field(
        default=None, min_length=1, max_length=63, description="NIC class (ib-ndr-400); needed beyond one node."
    )
    nics_per_node: int | None = Field(default=None, ge=1, le=64, description="NICs of a node (1).")
    framework: Framework = Field(
        default="megatron-lm", description="Whose kernels run; eager is PyTorch's own loop (DDP)."
    )
    precision: Precision | None = Field(
        default=None, description="Number format; bf16, or fp16 on accelerators without it, when absent."
    )
    sequence_parallel: bool = Field(
        default=False, description="Tensor parallel ranks share activations along the sequence."
    )
