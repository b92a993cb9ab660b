"""A plan as the command line of torchtitan 0.3.0 (`torchtitan/config/configs.py`, `distributed/pipeline_parallel.py`)."""

from __future__ import annotations

from controlplane.model.errors import Unsupported
from controlplane.model.launch import Launch
from controlplane.model.training import ParallelPlan, TrainingCase
from tuner.training.planner.export_words import refuse_unless, seats, torchrun
from tuner.training.planner.space import chunked_layers

VERSION = "0.3.0"
_SCHEDULES = {
    "gpipe": "GPipe", "1f1b": "1F1B", "interleaved": "Interleaved1F1B", "zb-v": "ZBVZeroBubble",
}  # fmt: skip
_RECOMPUTE = {"none": "none", "operators": "selective", "full": "full"}
# Configurations of `config_registry.py` in 16 bits, by (layers, hidden, heads, key-value heads, MLP width, vocabulary).
# The one of Llama 3 405B trains in 8 bits and is therefore none of them.
_KNOWN = {
    (32, 4096, 32, 8, 14336, 128256): ("llama3", "llama3_8b"),
    (80, 8192, 64, 8, 28672, 128256): ("llama3", "llama3_70b"),
}


def torchtitan_launch(case: TrainingCase, plan: ParallelPlan) -> Launch:
    """The command. Raises Unsupported where torchtitan has no word for a part of the plan."""
    _check(case, plan)
    module, config = _config(case)
    arguments = [f"--module {module}", f"--config {config}", *_degrees(case, plan), *_batch(case, plan)]
    if plan.framework == "fsdp-compiled":
        arguments.append("--compile.enable")
        if plan.overlap_tp:
            arguments.append("--compile.enable_async_tensor_parallel")
    # A sub-command of the parser: options that follow it would be its own.
    arguments.append(f"activation-checkpoint:{_RECOMPUTE[plan.recompute]}")
    notes = [
        *seats(case, plan),
        "the tokenizer's folder (--hf_assets_path), data set, learning rate and steps are the configuration's",
    ]
    if module == "MODULE":
        notes.append("no configuration of torchtitan has this shape in 16 bits: MODULE and CONFIG are yours to write")
    return Launch(
        framework="torchtitan", version=VERSION, program=(*torchrun(case, plan), "-m torchtitan.train"),
        arguments=tuple(arguments), notes=tuple(notes),
    )  # fmt: skip


def _check(case: TrainingCase, plan: ParallelPlan) -> None:
    refuse_unless("framework", plan.framework, ("fsdp", "fsdp-compiled"), "plan with --framework fsdp for torchtitan")
    refuse_unless("precision", plan.precision, ("bf16",), "torchtitan sets other formats in its configuration's code")
    refuse_unless("schedule", plan.schedule, tuple(_SCHEDULES), "--schedule leaves the ones it has")
    refuse_unless("recompute", plan.recompute, tuple(_RECOMPUTE), "--recompute leaves the ones it has")
    refuse_unless("recompute_layers", plan.recompute_layers, (0,), "its full mode covers every layer")
    refuse_unless("zero", plan.zero, (0, 2, 3), "torchtitan shards all of it, or nothing")
    refuse_unless("optimizer", plan.optimizer, ("adam",), "another one is set in the configuration's code")
    refuse_unless("attention", plan.attention, ("flash",), "its kernels fuse attention")
    refuse_unless("cp_mode", plan.cp_mode, ("ring",), "its context parallelism passes keys and values around a ring")
    refuse_unless("vocab_parallel", plan.vocab_parallel, ("none",), "embedding and output are on the end stages")
    refuse_unless("optimizer_offload", plan.optimizer_offload, ("none",), "it offloads parameters and all, or nothing")
    refuse_unless("offload_layers", plan.offload_layers, (0,), "it keeps activations on the accelerator")
    for name in ("weight_group", "gradient_group", "secondary_group"):
        refuse_unless(name, getattr(plan, name), (0,), "its hybrid sharding keeps the optimizer in one group, too")
    if case.model.experts and plan.etp != (1 if plan.ep > 1 else plan.tp):
        raise Unsupported(
            "torchtitan splits experts over ep ranks, or each of them over the tensor parallel ones where ep is 1",
            field="etp", value=plan.etp, limit="1" if plan.ep > 1 else str(plan.tp),
        )  # fmt: skip
    if plan.overlap_tp and plan.framework != "fsdp-compiled":
        raise Unsupported("needs a compiled model", field="overlap_tp", value=True, limit="--framework fsdp-compiled")
    if plan.zero == 0 and plan.cp > 1:
        raise Unsupported(
            "torchtitan shards parameters over context parallel ranks", field="zero", value=0, limit="2 or 3 with cp",
        )  # fmt: skip


def _degrees(case: TrainingCase, plan: ParallelPlan) -> list[str]:
    replicas, shards = (plan.dp, 1) if plan.zero == 0 else (1, plan.dp)
    found = [
        f"--parallelism.data_parallel_replicate_degree {replicas}",
        f"--parallelism.data_parallel_shard_degree {shards}",
        f"--parallelism.tensor_parallel_degree {plan.tp}",
        f"--parallelism.context_parallel_degree {plan.cp}",
        f"--parallelism.pipeline_parallel_degree {plan.pp}",
    ]
    if plan.zero:
        found.append(f"--parallelism.fsdp_reshard_after_forward {'always' if plan.zero == 3 else 'never'}")
    if plan.tp > 1 and not plan.sp:
        found.append("--parallelism.no-enable_sequence_parallel")
    if case.model.experts:
        found.append(f"--parallelism.expert_parallel_degree {plan.ep}")
    if plan.pp > 1:
        found += [
            f"--parallelism.pipeline_parallel_schedule {_SCHEDULES[plan.schedule]}",
            f"--parallelism.pipeline_parallel_microbatch_size {plan.micro_batch}",
            f"--parallelism.module_fqns_per_model_part {' '.join(_parts(case, plan))}",
        ]
    if plan.pp > 1 or plan.ep > 1:
        found.append("--training.disable_cuda_graphs")  # its graphs capture neither
    return found


def _batch(case: TrainingCase, plan: ParallelPlan) -> list[str]:
    local = plan.micro_batch * (plan.micro_batches if plan.pp > 1 else 1)
    return [
        f"--training.local_batch_size {local}",
        f"--training.global_batch_size {plan.global_batch}",
        f"--training.seq_len {case.model.seq}",
    ]


def _parts(case: TrainingCase, plan: ParallelPlan) -> list[str]:
    """Names of the modules of every chunk, in the order of the model."""
    layers = _chunk_layers(case, plan)
    parts, at = [], 0
    for chunk, count in enumerate(layers):
        names = [f"layers.{at + index}" for index in range(count)]
        at += count
        names = [*["tok_embeddings"] * (chunk == 0), *names]
        parts.append(",".join([*names, *["norm", "lm_head"] * (chunk == len(layers) - 1)]))
    return parts


def _chunk_layers(case: TrainingCase, plan: ParallelPlan) -> list[int]:
    if plan.layers_per_stage:
        refuse_unless("vpp", plan.vpp, (1,), "unequal stages are launched one chunk each")
        return list(plan.layers_per_stage)
    chunks = plan.pp * (2 if plan.schedule == "zb-v" else plan.vpp)
    counted = chunked_layers(case.model.layers, plan.pp)
    if counted is None or counted % chunks:
        raise Unsupported(
            f"{case.model.layers} layers do not divide into {chunks} chunks", field="vpp", value=plan.vpp,
            limit="a divisor of a stage's layers", hint="plan with --vpp 1",
        )  # fmt: skip
    each, ends = [counted // chunks] * chunks, counted - case.model.layers
    each[-1] -= ends > 0
    each[0] -= ends > 1
    return each


def _config(case: TrainingCase) -> tuple[str, str]:
    model = case.model
    shape = (model.layers, model.hidden, model.heads, model.kv_heads, model.ffn, model.vocab)
    return ("MODULE", "CONFIG") if model.experts else _KNOWN.get(shape, ("MODULE", "CONFIG"))
