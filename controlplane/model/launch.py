"""A training plan as it is launched: degrees, stages, which rank sits where, arguments. What the operator renders."""

from dataclasses import fields
from typing import Annotated

from pydantic import Field, model_validator

from controlplane.model.resource import StatusPart
from controlplane.model.training import (
    Attention,
    ContextParallel,
    Framework,
    Offload,
    Optimizer,
    ParallelPlan,
    Precision,
    Recompute,
    Schedule,
    VocabularyParallel,
)

MAX_DEGREE = 1 << 20
MAX_STAGES = 1024
MAX_RUNS = 4096
Degree = Annotated[int, Field(ge=1, le=MAX_DEGREE)]
Group = Annotated[int, Field(ge=0, le=MAX_DEGREE)]


class ParallelSettings(StatusPart):
    """`ParallelPlan` in a custom resource or a request: the same fields with bounds."""

    tp: Degree = Field(default=1, description="Tensor parallel degree.")
    pp: Annotated[int, Field(ge=1, le=MAX_STAGES)] = Field(default=1, description="Pipeline stages.")
    dp: Degree = Field(default=1, description="Data parallel degree.")
    cp: Degree = Field(default=1, description="Context parallel degree.")
    ep: Degree = Field(default=1, description="Expert parallel degree, over ranks that are already there.")
    etp: Degree = Field(default=1, description="Tensor parallel degree inside an expert.")
    vpp: Annotated[int, Field(ge=1, le=1024)] = Field(default=1, description="Chunks of the model on each stage.")
    schedule: Schedule = Field(default="1f1b", description="Order of the micro-batches.")
    micro_batch: Degree = Field(default=1, description="Sequences of one micro-batch.")
    global_batch: Annotated[int, Field(ge=1, le=1 << 24)] = Field(default=1, description="Sequences of an iteration.")
    recompute: Recompute = Field(default="none", description="Activations computed anew in the backward pass.")
    recompute_layers: Group = Field(default=0, description="Layers of a chunk that full recomputation covers; 0: all.")
    zero: Annotated[int, Field(ge=0, le=3)] = Field(default=0, description="ZeRO level; 1 shards the optimizer.")
    sp: bool = Field(default=False, description="Sequence parallelism beside tensor parallelism.")
    cp_mode: ContextParallel = Field(default="ring", description="How context parallel ranks share attention.")
    vocab_parallel: VocabularyParallel = Field(default="none", description="Vocabulary over the pipeline's stages.")
    layers_per_stage: Annotated[tuple[Annotated[int, Field(ge=0, le=1 << 16)], ...], Field(max_length=MAX_STAGES)] = (
        Field(default=(), description="Layers of each stage; empty: as even as it goes.")
    )
    precision: Precision = Field(default="bf16", description="Number format of the matrix products.")
    framework: Framework = Field(default="megatron-lm", description="What the cost was computed for.")
    attention: Attention = Field(default="flash", description="Attention kernel.")
    gradient_bytes: Annotated[int, Field(ge=2, le=4)] = Field(default=4, description="Bytes of a gradient.")
    optimizer: Optimizer = Field(default="adam", description="Optimizer.")
    overlap_dp: bool = Field(default=False, description="Gradient traffic behind the backward pass.")
    overlap_tp: bool = Field(default=False, description="Tensor parallel traffic in chunks beside its products.")
    overlap_pp: bool = Field(default=False, description="Transfers between stages behind other chunks' work.")
    weight_group: Group = Field(default=0, description="Ranks that share one copy of the weights; 0: all replicas.")
    gradient_group: Group = Field(default=0, description="Ranks that share one copy of the gradients; 0: all replicas.")
    secondary_group: Group = Field(default=0, description="Ranks of a second copy of the weights (hpZ); 0: none.")
    optimizer_offload: Offload = Field(default="none", description="Where optimizer state lives.")
    offload_layers: Group = Field(default=0, description="Layers whose activations wait in host memory.")

    @classmethod
    def of(cls, plan: ParallelPlan) -> "ParallelSettings":
        """The settings of a plan."""
        return cls.model_validate({item.name: getattr(plan, item.name) for item in fields(plan)})

    def plan(self) -> ParallelPlan:
        """The plan of these settings."""
        return ParallelPlan(**{item.name: getattr(self, item.name) for item in fields(ParallelPlan)})


class LaunchStage(StatusPart):
    """One pipeline stage. Its ranks are consecutive: tensor parallel fastest, then context, data, pipeline."""

    layers: int = Field(ge=0, description="Transformer layers, over all chunks of the stage.")
    pool: str = Field(max_length=63, description="Pool whose accelerators hold it.")
    accelerator: str = Field(max_length=63, description="Accelerator from the catalogue.")
    first_rank: int = Field(ge=0, lt=MAX_DEGREE, description="First rank.")
    ranks: int = Field(ge=1, le=MAX_DEGREE, description="Ranks.")


class RankRun(StatusPart):
    """Consecutive ranks on consecutive nodes of one pool, so many on each: rank `first_rank + i` sits on node
    `first_node + i // per_node`, accelerator `first_accelerator + i % per_node`."""

    pool: str = Field(max_length=63, description="Pool.")
    first_rank: int = Field(ge=0, lt=MAX_DEGREE, description="First rank.")
    ranks: int = Field(ge=1, le=MAX_DEGREE, description="Ranks.")
    first_node: int = Field(ge=0, lt=MAX_DEGREE, description="Number of the first node within what the pool gives.")
    per_node: int = Field(ge=1, le=1024, description="Ranks on each node.")
    first_accelerator: int = Field(default=0, ge=0, lt=1024, description="Accelerator of a node's first rank.")


class Launch(StatusPart):
    """How a framework starts the plan. Data, tokenizer, learning rate and checkpoints are the user's."""

    framework: str = Field(max_length=63, description="Framework.")
    version: str = Field(max_length=63, description="Version that the arguments are written for.")
    program: Annotated[tuple[str, ...], Field(max_length=64)] = Field(
        default=(), description="What starts the ranks; words in capitals are the user's."
    )
    arguments: Annotated[tuple[str, ...], Field(max_length=512)] = Field(
        default=(), description="Arguments of the training script, as a shell reads them."
    )
    files: dict[str, str] = Field(default_factory=dict, max_length=16, description="Files to write, by name.")
    environment: dict[str, str] = Field(default_factory=dict, max_length=64, description="Variables to set.")
    notes: Annotated[tuple[str, ...], Field(max_length=64)] = Field(
        default=(), description="What else has to be so, and cannot be said in arguments."
    )


class LaunchPlan(StatusPart):
    """A parallel plan with everything needed to start it."""

    parallel: ParallelSettings = Field(description="Degrees, schedule, sharding.")
    stages: Annotated[tuple[LaunchStage, ...], Field(min_length=1, max_length=MAX_STAGES)] = Field(
        description="Pipeline stages, first first."
    )
    rank_map: Annotated[tuple[RankRun, ...], Field(min_length=1, max_length=MAX_RUNS)] = Field(
        description="Which rank sits where."
    )
    launch: Launch | None = Field(default=None, description="How to start it; absent: nothing launches this plan.")

    @model_validator(mode="after")
    def _whole(self) -> "LaunchPlan":
        ranks = self.parallel.tp * self.parallel.pp * self.parallel.dp * self.parallel.cp
        if len(self.stages) != self.parallel.pp:
            raise ValueError(f"stages: {len(self.stages)} of them, pp is {self.parallel.pp}")
        for name, parts in (("stages", self.stages), ("rankMap", self.rank_map)):
            at = 0
            for part in parts:
                if part.first_rank != at:
                    raise ValueError(f"{name}: rank {at} is missing or twice, {part.first_rank} follows")
                at += part.ranks
            if at != ranks:
                raise ValueError(f"{name}: {at} ranks, the degrees make {ranks}")
        return self
