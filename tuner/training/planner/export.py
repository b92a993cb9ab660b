"""A plan as the arguments of Megatron-LM's training script (`megatron/training/arguments.py`)."""

from __future__ import annotations

from controlplane.model.errors import Unsupported
from controlplane.model.training import ParallelPlan, TrainingCase
from tuner.training.planner.export_words import gradient_format, refuse_unless
from tuner.training.planner.space import chunked_layers

_PRECISION = {
    "bf16": ["--bf16"], "fp16": ["--fp16"], "fp32": [], "fp8": ["--bf16", "--fp8-format hybrid"],
    "mxfp8": ["--bf16", "--fp8-format e4m3", "--fp8-recipe mxfp8"],
    "nvfp4": ["--bf16", "--fp4-format e2m1", "--fp4-recipe nvfp4"],
}  # fmt: skip
_SHARDED = {2: "optim_grads", 3: "optim_grads_params"}


def megatron_flags(case: TrainingCase, plan: ParallelPlan) -> list[str]:
    """One argument with its value per item, as a shell reads them: how work is spread, then the model's shape. Data,
    tokenizer, learning rate and checkpoints are the user's. Raises Unsupported where the plan cannot be said in
    arguments."""
    _check(case, plan)
    return [*_parallel(case, plan), *_work(plan), *_shape(case)]


def _check(case: TrainingCase, plan: ParallelPlan) -> None:
    refuse_unless("framework", plan.framework, ("megatron-lm",), "the plan was costed for another framework")
    refuse_unless("precision", plan.precision, tuple(_PRECISION), "it has no argument for this format")
    refuse_unless("schedule", plan.schedule, ("1f1b", "interleaved"), "its schedules are these")
    refuse_unless("recompute", plan.recompute, ("none", "selective", "full"), "its recomputation is one of these")
    refuse_unless("vocab_parallel", plan.vocab_parallel, ("none",), "embedding and output are on the end stages")
    refuse_unless("optimizer_offload", plan.optimizer_offload, ("none", "cpu"), "it offloads to host memory only")
    for name in ("weight_group", "gradient_group", "secondary_group"):
        refuse_unless(name, getattr(plan, name), (0,), "its sharding is over all replicas")
    if plan.optimizer_offload != "none":
        refuse_unless("zero", plan.zero, (1,), "offloading takes the distributed optimizer")
    if plan.layers_per_stage and any(count % plan.vpp for count in plan.layers_per_stage):
        raise Unsupported(
            "a stage's layers do not divide into its chunks", field="layers_per_stage", value=plan.layers_per_stage,
            limit=f"multiples of {plan.vpp}",
        )  # fmt: skip


def _parallel(case: TrainingCase, plan: ParallelPlan) -> list[str]:
    found = [
        f"--tensor-model-parallel-size {plan.tp}",
        f"--pipeline-model-parallel-size {plan.pp}",
        f"--context-parallel-size {plan.cp}",
    ]
    if plan.cp > 1 and plan.cp_mode == "ulysses":
        found.append("--cp-comm-type a2a")
    if case.model.experts:
        found += [f"--expert-model-parallel-size {plan.ep}", f"--expert-tensor-parallel-size {plan.etp}"]
    found += _stages(case, plan)
    if plan.sp:
        found.append("--sequence-parallel")
    if plan.zero:
        found.append("--use-distributed-optimizer")
    if plan.zero > 1:
        found += [
            "--use-megatron-fsdp", f"--data-parallel-sharding-strategy {_SHARDED[plan.zero]}",
            "--ckpt-format fsdp_dtensor",
        ]  # fmt: skip
    if plan.optimizer_offload == "cpu":
        found += ["--optimizer-cpu-offload", "--use-precision-aware-optimizer"]
    if plan.offload_layers:
        found.append(f"--cpu-offloading-num-layers {plan.offload_layers}")
    if plan.overlap_dp and plan.dp * plan.cp > 1:
        found += ["--overlap-grad-reduce", *["--overlap-param-gather"] * (plan.zero > 0)]
    if plan.overlap_tp and plan.sp:
        found.append("--tp-comm-overlap")
    return found


def _stages(case: TrainingCase, plan: ParallelPlan) -> list[str]:
    """Layers of the stages: by division, or as a layout where the plan cuts them unequally."""
    counts = plan.layers_per_stage
    if counts and len(set(counts)) > 1:
        # Chunk by chunk: E the embedding, t a layer, L the loss.
        each = ["t*" + str(count // plan.vpp) if count else "" for count in counts] * plan.vpp
        return [f"--pipeline-model-parallel-layout 'E{'|'.join(each)}L'"]
    counted = chunked_layers(case.model.layers, plan.pp)
    if counted is None:
        raise Unsupported(
            "layers do not divide into stages", field="pp", value=plan.pp, limit=f"divisors of {case.model.layers}"
        )
    found = []
    if plan.vpp > 1:
        found.append(f"--num-layers-per-virtual-pipeline-stage {counted // plan.pp // plan.vpp}")
    if counted > case.model.layers:
        found.append("--account-for-loss-in-pipeline-split")
    if counted > case.model.layers + 1:
        found.append("--account-for-embedding-in-pipeline-split")
    return found


def _work(plan: ParallelPlan) -> list[str]:
    found = [f"--micro-batch-size {plan.micro_batch}", f"--global-batch-size {plan.global_batch}"]
    if plan.recompute == "full":
        method, layers = ("block", plan.recompute_layers) if plan.recompute_layers else ("uniform", 1)
        found += ["--recompute-granularity full", f"--recompute-method {method}", f"--recompute-num-layers {layers}"]
    elif plan.recompute == "selective":
        found.append("--recompute-granularity selective")
    found.append(f"--attention-backend {plan.attention}")
    return [*found, *_PRECISION[plan.precision], *gradient_format(plan)]


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
    if model.kv_rank:
        found += [
            "--multi-latent-attention",
            *[f"--q-lora-rank {model.q_rank}"] * (model.q_rank > 0),
            f"--kv-lora-rank {model.kv_rank}",
            f"--qk-head-dim {model.head_dim - model.rope_dim}",
            f"--qk-pos-emb-head-dim {model.rope_dim}",
            f"--v-head-dim {model.value_dim}",
        ]
    elif model.kv_heads != model.heads:
        found += ["--group-query-attention", f"--num-query-groups {model.kv_heads}"]
    if model.gated:
        found.append("--swiglu")
    if model.gated or model.experts or model.kv_rank:  # Llama and what followed; grouped experts refuse a bias
        found.append("--disable-bias-linear")
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
            "--moe-grouped-gemm",
        ]
        if model.shared_ffn:
            found.append(f"--moe-shared-expert-intermediate-size {model.shared_ffn}")
        nodes = case.plan.ep * case.plan.etp // case.pools[0].gpus_per_node  # that one group of experts lies on
        if 0 < model.route_nodes < nodes:
            found += [f"--moe-router-num-groups {nodes}", f"--moe-router-group-topk {model.route_nodes}"]
        if model.moe_layers < model.layers:
            dense = model.layers - model.moe_layers
            found.append(f"--moe-layer-freq '([0]*{dense}+[1]*{model.moe_layers})'")
    return found


def left_to_set(case: TrainingCase) -> list[str]:
    """What the arguments leave to the user, because a shape does not tell it: a note each."""
    model = case.model
    found = [
        "data, tokenizer, position embedding, learning rate and checkpoints are yours",
        "normalisation is yours: LayerNorm unless --normalization RMSNorm (Llama, Qwen, DeepSeek)",
    ]
    if model.gated or model.experts:
        found.append(
            "yours where the model has them: --add-qkv-bias (Qwen2), --qk-layernorm (Qwen3, DeepSeek-V2 and V3)"
        )
    if model.experts:
        found.append(
            "the router is yours: softmax without a bias unless told (DeepSeek-V3: --moe-router-score-function sigmoid "
            "--moe-router-enable-expert-bias --moe-router-topk-scaling-factor 2.5), and so is its balancing loss"
        )
    return found
