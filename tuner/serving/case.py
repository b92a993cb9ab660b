"""One engine instance as the models see it."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.model.choice import EngineName


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCase:
    """Model, accelerator, engine and parallel shape of one replica. Lengths, load and knobs are not part of it.

    `model` and `accelerator` are catalogue ids. `moe_tensor_parallel x moe_expert_parallel` equals
    `tensor_parallel x attention_data_parallel` for MoE models and is 1 otherwise. Quantisations are the words of the
    step tables (`fp8_block`, `nvfp4`); None means the checkpoint's own. `draft_tokens`: tokens that a draft head
    proposes per step (0: off). `nic` and `accelerators_per_node` decide which links a group crosses. `cores`: CPU
    cores of one rank where the accelerator is a CPU, which the catalogue describes per core (None: one).
    """

    model: str
    accelerator: str
    engine: EngineName
    engine_version: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    attention_data_parallel: int = 1
    moe_tensor_parallel: int = 1
    moe_expert_parallel: int = 1
    gemm_quant: str | None = None
    moe_quant: str | None = None
    kv_quant: str | None = None
    draft_tokens: int = 0
    nic: str | None = None
    nics_per_node: int | None = None
    accelerators_per_node: int | None = None
    cores: int | None = None

    @property
    def accelerators(self) -> int:
        """Accelerators one replica takes."""
        return self.tensor_parallel * self.pipeline_parallel * self.attention_data_parallel
