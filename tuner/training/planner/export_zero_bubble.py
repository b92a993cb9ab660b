"""A plan as the arguments of Megatron-LM's zero-bubble fork (`megatron/core/zbpp_utils.py`, `megatron/training/arguments.py`).

Its schedules come from a scheduler that measures the first iterations; a limit on pending backward passes tells ZB-1p
from ZB-2p. Transfers are not overlapped, as in its example: overlapping them takes eight connections, and sequence
parallelism a single one.
"""

from __future__ import annotations

from controlplane.model.errors import Unsupported
from controlplane.model.launch import Launch
from controlplane.model.training import FOLDED, ParallelPlan, TrainingCase
from tuner.training.planner.export_words import gradient_format, refuse_unless, seats, torchrun
from tuner.training.planner.launchable import launchable

FRAMEWORK = "megatron-zero-bubble"
_PENDING = {"zb-h1": 1, "zb-1p": 1, "zb-h2": 2, "zb-2p": 2}  # backward passes per stage that may wait
_MEMORY = {"zb-v": "zb", "v-half": "half", "v-min": "min"}
_MEASURED = (100, 110)  # iterations that its scheduler times, as in its example


def zero_bubble_launch(case: TrainingCase, plan: ParallelPlan) -> Launch:
    """The training script and its arguments. Raises Unsupported where the fork has no word for the plan."""
    _check(case, plan)
    return Launch(
        framework=FRAMEWORK, version=launchable(FRAMEWORK).version, program=(*torchrun(case, plan), "pretrain_gpt.py"),
        arguments=(*_parallel(plan), *_schedule(plan), *_work(plan), *_shape(case)),
        environment={"CUDA_DEVICE_MAX_CONNECTIONS": "1"},
        notes=(
            *seats(case, plan),
            "data, tokenizer, position embedding, learning rate and checkpoints are yours",
            f"iterations before {_MEASURED[1]} run another schedule: its scheduler measures",
            *["checking the optimizer's step after the fact, which lets iterations follow without a gap, takes fp16"]
            * (plan.precision != "fp16" and plan.schedule != "1f1b"),
        ),
    )  # fmt: skip


def _check(case: TrainingCase, plan: ParallelPlan) -> None:
    refuse_unless("framework", plan.framework, (FRAMEWORK,), "the plan was costed for another framework")
    refuse_unless("precision", plan.precision, ("bf16", "fp16", "fp32"), "it trains in these formats")
    refuse_unless("schedule", plan.schedule, ("1f1b", *_PENDING, *_MEMORY), "its schedules are these")
    refuse_unless("recompute", plan.recompute, ("none", "selective", "full"), "its recomputation is one of these")
    refuse_unless("zero", plan.zero, (0, 1), "it has the distributed optimizer")
    refuse_unless("cp", plan.cp, (1,), "its models have no context parallelism")
    refuse_unless("vocab_parallel", plan.vocab_parallel, ("none",), "that is another branch")
    refuse_unless("optimizer_offload", plan.optimizer_offload, ("none",), "its optimizer stays on the accelerator")
    refuse_unless("offload_layers", plan.offload_layers, (0,), "it offloads chunks by measured times, not layers")
    refuse_unless("model.experts", case.model.experts, (0,), "its models are dense")
    refuse_unless("model.tied", case.model.tied, (False,), "embedding and output must be two matrices")
    refuse_unless("model.kv_rank", case.model.kv_rank, (0,), "its attention is plain or grouped")
    if plan.schedule != "1f1b":
        refuse_unless("overlap_dp", plan.overlap_dp and plan.dp > 1, (False,), "split backward passes refuse it")
    if len(set(plan.layers_per_stage)) > 1 or case.model.layers % (plan.pp * (2 if plan.schedule in FOLDED else 1)):
        raise Unsupported(
            "stages are equal", field="pp", value=plan.pp, limit=f"a divisor of {case.model.layers} layers",
        )  # fmt: skip


def _parallel(plan: ParallelPlan) -> list[str]:
    found = [f"--tensor-model-parallel-size {plan.tp}", f"--pipeline-model-parallel-size {plan.pp}"]
    found += ["--sequence-parallel"] * plan.sp + ["--use-distributed-optimizer"] * (plan.zero > 0)
    found += ["--overlap-grad-reduce"] * (plan.overlap_dp and plan.dp > 1)
    return [*found, "--no-overlap-p2p-communication", "--no-pre-communication-optimization"]


def _schedule(plan: ParallelPlan) -> list[str]:
    if plan.schedule == "1f1b":
        return []
    found = [
        "--enable-zero-bubble",
        f"--zero-bubble-pipeline-timers-start-iter {_MEASURED[0]}",
        f"--zero-bubble-pipeline-timers-end-iter {_MEASURED[1]}",
    ]
    if plan.schedule in FOLDED:
        found += ["--zero-bubble-v-schedule", f"--zero-bubble-v-schedule-mem-setup {_MEMORY[plan.schedule]}"]
        found.append(f"--zero-bubble-max-pending-backward {2 * plan.pp}")
    else:
        found.append(f"--zero-bubble-max-pending-backward {_PENDING[plan.schedule] * plan.pp}")
    return [*found, *["--enable-optimizer-post-validation"] * (plan.precision == "fp16")]


def _work(plan: ParallelPlan) -> list[str]:
    found = [f"--micro-batch-size {plan.micro_batch}", f"--global-batch-size {plan.global_batch}"]
    if plan.recompute == "full":
        method, layers = ("block", plan.recompute_layers) if plan.recompute_layers else ("uniform", 1)
        found += ["--recompute-granularity full", f"--recompute-method {method}", f"--recompute-num-layers {layers}"]
    elif plan.recompute == "selective":
        found.append("--recompute-granularity selective")
    found += ["--use-flash-attn"] * (plan.attention == "flash")
    return [*found, *[f"--{plan.precision}"] * (plan.precision != "fp32"), *gradient_format(plan)]


def _shape(case: TrainingCase) -> list[str]:
    model = case.model
    found = [
        "--use-legacy-models", "--transformer-impl local", "--untie-embeddings-and-output-weights",
        f"--num-layers {model.layers}", f"--hidden-size {model.hidden}", f"--num-attention-heads {model.heads}",
        f"--kv-channels {model.head_dim}", f"--ffn-hidden-size {model.ffn}", f"--seq-length {model.seq}",
        f"--max-position-embeddings {model.seq}",
    ]  # fmt: skip
    if model.kv_heads != model.heads:
        found += ["--group-query-attention", f"--num-query-groups {model.kv_heads}"]
    found += ["--swiglu", "--disable-bias-linear"] * model.gated
    return found + ([] if model.dropout else ["--attention-dropout 0.0", "--hidden-dropout 0.0"])
