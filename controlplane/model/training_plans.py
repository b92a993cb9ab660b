"""Training plans: what is asked of the training planner and what it answers. The words that API, operator and tuner
share; a plan itself is `controlplane.model.launch`."""

from typing import Annotated

from pydantic import Field

from controlplane.model.launch import LaunchPlan, ParallelSettings
from controlplane.model.plans import PlannablePool
from controlplane.model.resource import Part, StatusPart
from controlplane.model.training import Framework, Precision

MAX_POOLS = 8  # unlike ones; a search over more outgrows the memory of the planner's process
Choice = Annotated[str, Field(min_length=1, max_length=32)]
Value = bool | Annotated[int, Field(ge=0, le=1 << 20)] | Annotated[str, Field(min_length=1, max_length=32)]


class TrainingPlanRequest(Part):
    """One question: how to train a model on these pools."""

    model: str = Field(
        min_length=1,
        max_length=2000,
        description="Model from the catalogue, a repository id, or a shape: layers=96,hidden=12288,heads=96,vocab=51200.",
    )
    seq: int | None = Field(
        default=None, ge=1, le=1 << 22, description="Tokens per sequence. Needed with a model of the catalogue."
    )
    global_batch: int = Field(ge=1, le=1 << 17, description="Sequences per iteration.")
    precision: Precision | None = Field(
        default=None,
        description="Number format of the matrix products. Without one: bf16, or fp16 where an accelerator has no bf16.",
    )
    framework: Framework = Field(default="megatron-lm", description="What is to launch the plan.")
    pools: list[PlannablePool] = Field(
        min_length=1, max_length=MAX_POOLS, description="Where it may run; `free` accelerators of each are taken."
    )
    fixed: dict[Choice, Annotated[list[Value], Field(min_length=1, max_length=32)]] = Field(
        default_factory=dict,
        max_length=32,
        description="Choices already made, by name, with the values allowed: tp, pp, dp, cp, ep, etp, vpp, microBatch, "
        "schedule, recompute, zero, sp and more (a wrong name is answered with the known ones).",
    )
    top: int = Field(default=3, ge=1, le=16, description="Plans to return.")
    limit_s: float = Field(
        default=30.0, gt=0, le=100, description="Stop searching after so many seconds, with a bound: many unlike pools."
    )
    theoretical: bool = Field(
        default=False, description="Show apart what papers describe and no framework launches, where it is faster."
    )
    sizes: bool = Field(default=False, description="The same job on fewer nodes of one pool, too.")
    failures: str | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="What failures make of the best plan: llama3, rsc-1 or rsc-2 (published rates), or failures per "
        "node and day.",
    )


class TrainingPrediction(StatusPart):
    """What a plan will do, per the model: the fields of `trimtab predict training`."""

    iteration_s: float = Field(description="Time of one iteration, s.")
    lo: float | None = Field(
        default=None, description="Lower end of what 90 % of measured runs of this pattern take, s."
    )
    hi: float | None = Field(default=None, description="Upper end, s.")
    tokens_per_s: float = Field(description="Tokens per second of all accelerators.")
    mfu: float = Field(description="Model FLOPs as a share of the peak.")
    hfu: float = Field(description="The same with recomputed FLOPs counted.")
    memory_bytes: list[int] = Field(description="Of the fullest rank of each stage.")
    memory: dict[str, list[int]] = Field(description="What the memory is for, bytes of each stage.")
    bubble: float = Field(description="Share of the pipeline's time in which a stage has nothing to do.")
    exposed_comm_s: float = Field(description="Traffic that nothing hides, s.")
    energy_j: float | None = Field(default=None, description="Energy of one iteration; a model, not a measurement.")
    energy_lo_j: float | None = Field(default=None, description="Least power in the shortest iteration, J.")
    energy_hi_j: float | None = Field(default=None, description="Most power in the longest iteration, J.")
    energy_basis: str = Field(default="model", description="How the energy came about.")
    cost_per_iteration: float | None = Field(default=None, description="At the pools' prices; absent: unknown.")
    cost_per_billion_tokens: float | None = Field(default=None, description="At the pools' prices; absent: unknown.")
    currency: str | None = Field(default=None, description="ISO 4217 code of the cost.")
    fits: bool = Field(description="Whether every stage fits its accelerators, a reserve left free.")
    tight: bool = Field(default=False, description="It fits, but 90 % of measured runs may take more than there is.")
    memory_lo_bytes: list[int] = Field(default_factory=list, description="Lower end of what 90 % of runs take.")
    memory_hi_bytes: list[int] = Field(default_factory=list, description="Upper end.")
    memory_limit_bytes: list[int] = Field(default_factory=list, description="What a plan may fill, by stage.")
    pattern: str = Field(description="Kind of run that the interval was measured on.")
    warnings: list[str] = Field(default_factory=list, description="What weakens the prediction.")


class TrainingCandidate(StatusPart):
    """One plan that fits."""

    plan: LaunchPlan = Field(description="The plan and how to start it.")
    prediction: TrainingPrediction = Field(description="What it will do.")
    terms_s: dict[str, float] = Field(description="Parts of the iteration, s; they add up to it.")


class RejectedTraining(StatusPart):
    """A plan that lost."""

    plan: ParallelSettings = Field(description="The plan.")
    iteration_s: float = Field(description="What its iteration would take, s.")
    message: str = Field(description="The reason in one sentence.")
    over_bytes: int | None = Field(default=None, description="Bytes that it lacks; absent where it fits.")
    stage: int | None = Field(default=None, description="Stage that lacks them.")
    slower: float | None = Field(default=None, description="How much slower it is, as a share.")
    term: str | None = Field(default=None, description="Part of the iteration that grew most.")
    term_s: float | None = Field(default=None, description="By how much, s.")


class TheoreticalTraining(StatusPart):
    """A plan that papers describe and no framework launches. Never rendered."""

    plan: ParallelSettings = Field(description="The plan.")
    prediction: TrainingPrediction = Field(description="What it would do.")


class TrainingSize(StatusPart):
    """The best plan of the same job on so many accelerators, or why there is none."""

    accelerators: int = Field(description="How many.")
    on_front: bool = Field(description="No other size is at least as good in time, energy and cost, and better in one.")
    plan: ParallelSettings | None = Field(default=None, description="The best plan on them.")
    prediction: TrainingPrediction | None = Field(default=None, description="What it will do.")
    message: str = Field(default="", description="Why there is none.")


class PlanAfterLoss(StatusPart):
    """A plan made anew without one node of a pool."""

    pool: str = Field(description="The pool that lost a node.")
    gpus_left: int = Field(description="Accelerators it has then.")
    iteration_s: float | None = Field(default=None, description="Time of one iteration then, s.")
    slowdown: float | None = Field(default=None, description="Times as long as before.")
    plan: str | None = Field(default=None, description="The plan in one line.")
    error: str | None = Field(default=None, description="Why there is none.")


class PlanFailures(StatusPart):
    """What failures make of the best plan. A model."""

    failures_per_node_day: float = Field(description="Rate.")
    source: str = Field(description="Where the rate comes from.")
    nodes: int = Field(description="Nodes of the plan.")
    mtbf_s: float | None = Field(default=None, description="Mean time between failures, s; absent: none.")
    checkpoint_bytes: int = Field(description="Size of a checkpoint.")
    checkpoint_s: float = Field(description="Time to write it, s.")
    checkpoint_interval_s: float | None = Field(default=None, description="Best time between checkpoints, s.")
    restart_s: float = Field(description="Time to be back at work, s.")
    ettr: float = Field(description="Share of the time that trains.")
    tokens_per_s: float = Field(description="Tokens per second that stay.")
    spare_nodes: int = Field(description="Spare nodes that suffice with the assumed confidence.")
    assumed: dict[str, float] = Field(description="What was assumed, with its unit in the name.")
    after_loss: list[PlanAfterLoss] = Field(description="The plan made anew without one node, pool by pool.")


class SearchProof(StatusPart):
    """How far the search got, and how far off the best plan can be inside the model."""

    incumbent_s: float = Field(description="Best iteration found, s.")
    bound_s: float = Field(description="No plan of the space is faster, s.")
    gap: float = Field(description="How much faster a plan could still be, as a share; 0: proven.")
    complete: bool = Field(description="Whether nothing is left to search.")
    plans_costed: int = Field(description="Plans whose cost was computed.")


class TrainingPlan(StatusPart):
    """The answer: the best plans, the front, the proof and why others lost."""

    request: TrainingPlanRequest
    framework: str = Field(description="Framework and version whose limits the search kept.")
    best: list[TrainingCandidate] = Field(description="Fastest first.")
    front: list[TrainingCandidate] = Field(description="Of the fastest plans, those that no other beats in everything.")
    why_not: list[RejectedTraining] = Field(description="Plans that lost, one of each way to split the work.")
    theoretical: list[TheoreticalTraining] | None = Field(
        default=None, description="Faster, but nothing launches them."
    )
    sizes: list[TrainingSize] | None = Field(default=None, description="Where asked for, this size first.")
    failures: PlanFailures | None = Field(default=None, description="Where asked for.")
    proof: SearchProof
    elapsed_s: float = Field(description="Time it took, s.")
