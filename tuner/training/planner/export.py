"""A plan as the arguments of Megatron-LM's training script (`megatron/training/arguments.py`)."""

from __future__ import annotations

from controlplane.model.errors import Unsupported
from controlplane.model.training import ParallelPlan, TrainingCase
from tuner.training.planner.space import chunked_layers

_PRECISION = {"bf16": ["--bf16"], "fp16": ["--fp16"], "fp8": ["--bf16", "--fp8-format hybrid"], "fp32": []}


def megatron_flags(case: TrainingCase, plan: ParallelPlan) -> list[str]:
    """One argument with its value per item, as a shell reads them: how work is spread, then the model's shape. Data, tokenizer, learning
    rate and checkpoints are the user's. Raises Unsupported where the plan cannot be said in arguments."""
    if plan.framework != "megatron-lm":
        raise Unsupported("is not Megatron-LM", field="framework", value=plan.framework, limit="megatron-lm")
    if plan.precision not in _PRECISION:
        raise Unsupported(
            "has no argument", field="precision", value=plan.precision, limit=", ".join(sorted(_PRECISION))
        )
    return [*_parallel(case, plan), *_work(plan), *_shape(case)]


def _parallel(case: TrainingCase, plan: ParallelPlan) -> list[str]:
    found = [
        f"--tensor-model-parallel-size {plan.tp}",
        f"--pipeline-model-parallel-size {plan.pp}",
        f"--context-parallel-size {plan.cp}",
    ]
    if case.model.experts:
        found += [f"--expert-model-parallel-size {plan.ep}", f"--expert-tensor-parallel-size {plan.etp}"]
    counted = chunked_layers(case.model.layers, plan.pp)
    assert counted is not None
    if plan.vpp > 1:
        found.append(f"--num-layers-per-virtual-pipeline-stage {counted // plan.pp // plan.vpp}")
    if counted > case.model.layers:
        found.append("--account-for-loss-in-pipeline-split")
    if counted > case.model.layers + 1:
        found.append("--account-for-embedding-in-pipeline-split")
    if plan.sp:
        found.append("--sequence-parallel")
    if plan.zero:
        found.append("--use-distributed-optimizer")
    if plan.overlap_dp and plan.dp * plan.cp > 1:
        found += ["--overlap-grad-reduce", *["--overlap-param-gather"] * (plan.zero > 0)]
    if plan.overlap_tp and plan.sp:
        found.append("--tp-comm-overlap")
    return found


def _work(plan: ParallelPlan) -> list[str]:
    found = [f"--micro-batch-size {plan.micro_batch}", f"--global-batch-size {plan.global_batch}"]
    if plan.recompute == "full":
        found += ["--recompute-granularity full", "--recompute-method uniform", "--recompute-num-layers 1"]
    elif plan.recompute == "selective":
        found.append("--recompute-granularity selective")
    found.append(f"--attention-backend {plan.attention}")
    return [*found, *_PRECISION[plan.precision]]


def _shape(case: TrainingCase) -> list[str]:
    model = case.model
    found = [
        f"--num-layers {model.layers}",
        f"--hidden-size {model.hidden}",
        f"--num-attention-heads {model.heads}",
        f"--kv-channels {model.head_dim}",
        f"--ffn-hidden-size {model.ffn}",
        f"--seq-length {model.seq}",
        f"--max-position-embeddings {model.seq}",
    ]
    if model.kv_heads != model.heads:
        found += ["--group-query-attention", f"--num-query-groups {model.kv_heads}"]
    if model.gated:
        found.append("--swiglu")
    if not model.tied:
        found.append("--untie-embeddings-and-output-weights")
    if not model.dropout:
        found += ["--attention-dropout 0", "--hidden-dropout 0"]
    if model.experts:
        found += [
            f"--num-experts {model.experts}",
            f"--moe-router-topk {model.top_k}",
            f"--moe-ffn-hidden-size {model.expert_ffn}",
            "--moe-token-dispatcher-type alltoall",
        ]
        if model.shared_ffn:
            found.append(f"--moe-shared-expert-intermediate-size {model.shared_ffn}")
        if model.moe_layers < model.layers:
            dense = model.layers - model.moe_layers
            found.append(f"--moe-layer-freq '([0]*{dense}+[1]*{model.moe_layers})'")
    return found
