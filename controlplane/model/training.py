"""Training: what is asked about one run (model, pools, plan) and the words that tuner, CLI and operator share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Schedule = Literal[
    "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-1p", "zb-2p", "zb-v", "v-half", "v-min"
]  # the last three fold the pipeline: stage i holds chunk i and chunk 2p - 1 - i
# selective: attention scores. operators: torchtitan's policy, every second matrix product and what is elementwise.
Recompute = Literal["none", "selective", "operators", "full"]
Precision = Literal["bf16", "fp16", "fp8", "mxfp8", "nvfp4", "tf32", "fp32"]
# What decides how many kernels a layer takes, how attention is computed and what is fused.
Optimizer = Literal["adam", "sgd"]
Framework = Literal[
    "megatron-lm", "megatron-lm-2021", "megatron-zero-bubble", "megatron-deepspeed", "fsdp", "fsdp-compiled", "eager"
]
Attention = Literal["unfused", "flash"]
VocabularyParallel = Literal["none", "vocab-1", "vocab-2", "interlaced"]
# How context parallel ranks share attention: keys and values around a ring, or heads by all-to-all.
ContextParallel = Literal["ring", "ulysses"]
Offload = Literal["none", "cpu", "nvme"]

SCHEDULES: tuple[str, ...] = get_args(Schedule)
RECOMPUTE: tuple[str, ...] = get_args(Recompute)
PRECISIONS: tuple[str, ...] = get_args(Precision)
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
FRAMEWORKS: tuple[str, ...] = get_args(Framework)
ATTENTIONS: tuple[str, ...] = get_args(Attention)
VOCABULARY_PARALLEL: tuple[str, ...] = get_args(VocabularyParallel)
CONTEXT_PARALLEL: tuple[str, ...] = get_args(ContextParallel)
OFFLOADS: tuple[str, ...] = get_args(Offload)
FOLDED: tuple[str, ...] = ("zb-v", "v-half", "v-min")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingModel:
    """A transformer as the planner sees it. `ffn` is the width of one MLP; experts replace it in `moe_layers`."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    seq: int
    head_dim: int
    gated: bool = False  # SwiGLU: three MLP matrices instead of two
    dropout: bool = True  # masks and second copies that dropout keeps; recent models train without
    tied: bool = True  # one matrix for embedding and output
    experts: int = 0
    top_k: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0  # width of the experts that every token visits
    moe_layers: int = 0
    route_nodes: int = 0  # a token's experts lie on at most so many nodes; 0: anywhere
    # Latent attention: keys and values come from `kv_rank` numbers per token, `rope_dim` of a query's `head_dim` carry
    # position and are shared by all heads' keys; a value has `value_dim`. 0: none; `q_rank` 0: queries as they are.
    q_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    value_dim: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPool:
    """Equal nodes of one accelerator and one NIC class. Rates in GB/s per direction override the catalogue's:
    `intra_gb_s` per accelerator inside the node, `inter_gb_s` per node towards other nodes."""

    gpu: str
    gpus: int
    gpus_per_node: int
    nic: str | None = None
    nics_per_node: int | None = None
    intra_gb_s: float | None = None
    inter_gb_s: float | None = None
    power_cap_w: float | None = None  # limit set on each accelerator
    price_per_accelerator_hour: float | None = None
    currency: str = "USD"
    name: str | None = None  # as the user calls it
    memory_reserve: float | None = None  # share of the memory that plans leave free; None: the default
    cross_gb_s: float | None = None  # per node towards nodes of another NIC class; None: 25 Gb/s Ethernet is assumed


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelPlan:
    """How a model is spread over accelerators and in which order micro-batches run. Sizes are in sequences."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1  # tensor parallelism inside an expert
    vpp: int = 1
    schedule: Schedule = "1f1b"
    micro_batch: int = 1
    global_batch: int = 1
    recompute: Recompute = "none"
    zero: int = 0
    sp: bool = False
    vocab_parallel: VocabularyParallel = "none"
    layers_per_stage: tuple[int, ...] = ()  # empty: as even as it goes
    precision: Precision = "bf16"
    framework: Framework = "megatron-lm"
    attention: Attention = "flash"
    gradient_bytes: int = 4  # per parameter; Megatron keeps gradients in fp32
    optimizer: Optimizer = "adam"
    overlap_dp: bool = False  # gradient traffic behind the backward pass
    overlap_tp: bool = False  # tensor-parallel traffic in chunks beside the GEMMs that need it
    overlap_pp: bool = False  # transfers between stages behind other chunks' work
    recompute_layers: int = 0  # full recomputation of so many layers of each chunk only; 0: all of them
    cp_mode: ContextParallel = "ring"
    # Sharding beyond `zero`: ranks that share one copy of the weights or of the gradients (0: all data-parallel ranks),
    # and ranks that hold a second copy of the weights between them for the backward pass (ZeRO++ hpZ; 0: none).
    weight_group: int = 0
    gradient_group: int = 0
    secondary_group: int = 0
    optimizer_offload: Offload = "none"  # where optimizer state lives and is updated
    offload_layers: int = 0  # layers of a stage whose activations wait in host memory

    @property
    def micro_batches(self) -> int:
        """Micro-batches each pipeline runs in one iteration."""
        return self.global_batch // (self.dp * self.micro_batch)

    @property
    def ranks(self) -> int:
        """Accelerators the plan takes; experts are spread over ranks that are already there."""
        return self.tp * self.pp * self.dp * self.cp


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCase:
    """One question: how long does an iteration of this plan take on these pools, and does it fit."""

    id: str | int | None = None
    model: TrainingModel
    pools: tuple[TrainingPool, ...]
    plan: ParallelPlan
    stage_pools: tuple[int, ...] = field(default=())  # pool of each stage, its slowest where replicas differ
