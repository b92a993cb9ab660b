"""A plan as DeepSpeed's configuration file and launch line (0.19.8: `runtime/config.py`, `runtime/zero/config.py`).

DeepSpeed takes batch, sharding, offload and tensor parallelism from its file. Pipeline stages and recomputation are
arguments of the user's own code: the notes say which.
"""

from __future__ import annotations

import json
from typing import Any

from controlplane.model.errors import Unsupported
from controlplane.model.launch import Launch
from controlplane.model.training import ParallelPlan, TrainingCase
from tuner.training.planner.export_words import nodes_of, refuse_unless, seats

VERSION = "0.19.8"
FILE = "deepspeed.json"


def deepspeed_launch(case: TrainingCase, plan: ParallelPlan) -> Launch:
    """The file and the command. Raises Unsupported where DeepSpeed has no word for a part of the plan."""
    _check(case, plan)
    nodes, per_node = nodes_of(case, plan)
    return Launch(
        framework="deepspeed", version=VERSION,
        program=("deepspeed", f"--num_nodes {nodes}", f"--num_gpus {per_node}", *["--hostfile HOSTFILE"] * (nodes > 1)),
        arguments=("TRAIN.py", f"--deepspeed_config {FILE}"),
        files={FILE: json.dumps(_config(case, plan), indent=2) + "\n"},
        notes=tuple(_notes(case, plan)),
    )  # fmt: skip


def _check(case: TrainingCase, plan: ParallelPlan) -> None:
    known = ("megatron-deepspeed", "eager")
    refuse_unless("framework", plan.framework, known, "plan with --framework megatron-deepspeed for DeepSpeed")
    refuse_unless("precision", plan.precision, ("bf16", "fp16", "fp32"), "its engine trains in these formats")
    refuse_unless("schedule", plan.schedule, ("1f1b",), "its pipeline engine runs 1F1B")
    refuse_unless("vpp", plan.vpp, (1,), "its pipeline engine gives each stage one chunk")
    refuse_unless("recompute", plan.recompute, ("none", "full"), "it checkpoints whole layers")
    refuse_unless("recompute_layers", plan.recompute_layers, (0,), "it checkpoints every layer or none")
    refuse_unless("vocab_parallel", plan.vocab_parallel, ("none",), "embedding and output are on the end stages")
    refuse_unless("offload_layers", plan.offload_layers, (0,), "it offloads what checkpoints hold, not single layers")
    refuse_unless("sp", plan.sp, (False,), "its tensor parallelism does not split the sequence")
    refuse_unless("etp", plan.etp, (1,), "its expert layers are not split further")
    refuse_unless("overlap_tp", plan.overlap_tp, (False,), "no option of the file does it")
    for name in ("weight_group", "gradient_group"):
        refuse_unless(name, getattr(plan, name), (0,), "its groups of fewer ranks shard the optimizer with them")
    if plan.cp > 1:
        refuse_unless("cp_mode", plan.cp_mode, ("ulysses",), "it shares attention by heads")
        for name in ("tp", "pp"):
            refuse_unless(name, getattr(plan, name), (1,), "its sequence parallel mesh has data parallel ranks beside")
    if plan.pp > 1:
        refuse_unless("zero", plan.zero, (0, 1), "its pipeline engine takes no ZeRO-2 and ZeRO-3")
        refuse_unless("tp", plan.tp, (1,), "beside a pipeline, tensor parallelism is the model's own code")
        if plan.layers_per_stage and len(set(plan.layers_per_stage)) > 1:
            raise Unsupported(
                "PipelineModule cuts by one rule for all stages, not by a list", field="layers_per_stage",
                value=plan.layers_per_stage, limit="equal stages", hint="--export megatron or torchtitan",
            )  # fmt: skip
        if case.model.layers % plan.pp:
            raise Unsupported(
                "its uniform cut puts the short stages elsewhere than the plan", field="pp", value=plan.pp,
                limit=f"a divisor of {case.model.layers} layers",
            )  # fmt: skip
    if plan.optimizer_offload != "none":
        refuse_unless("zero", plan.zero, (1, 2, 3), "only a sharded optimizer is offloaded")


def _config(case: TrainingCase, plan: ParallelPlan) -> dict[str, Any]:
    found: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.micro_batches,
    }
    if plan.tp == 1:  # its check would count tensor parallel ranks as replicas
        found["train_batch_size"] = plan.global_batch
    if plan.precision in ("bf16", "fp16"):
        found[plan.precision] = {"enabled": True}
        found["data_types"] = {"grad_accum_dtype": "fp32" if plan.gradient_bytes == 4 else plan.precision}
    zero: dict[str, Any] = {"stage": plan.zero}
    if plan.zero:
        zero |= {"overlap_comm": plan.overlap_dp, "contiguous_gradients": True}
    if plan.secondary_group:
        zero["zero_hpz_partition_size"] = plan.secondary_group
    if plan.optimizer_offload != "none":
        zero["offload_optimizer"] = {"device": plan.optimizer_offload, "pin_memory": True}
        if plan.optimizer_offload == "nvme":
            zero["offload_optimizer"]["nvme_path"] = "NVME_PATH"
    found["zero_optimization"] = zero
    if plan.tp > 1:
        found["tensor_parallel"] = {"autotp_size": plan.tp}
    if plan.cp > 1:
        found |= {"data_parallel_size": plan.dp, "sequence_parallel_size": plan.cp}
    return found


def _notes(case: TrainingCase, plan: ParallelPlan) -> list[str]:
    found = [*seats(case, plan), "TRAIN.py, data, optimizer type and learning rate are yours"]
    if plan.pp > 1:
        interval = 1 if plan.recompute == "full" else 0
        found.append(
            f"the model is a PipelineModule with num_stages={plan.pp}, partition_method='type:YOUR_LAYER_CLASS' and "
            f"activation_checkpoint_interval={interval}"
        )
    elif plan.recompute == "full":
        found.append("the model checkpoints every layer (gradient_checkpointing_enable() of Hugging Face models)")
    if plan.tp > 1:
        found.append(f"each iteration takes {plan.global_batch} sequences; the file leaves the product out")
    if plan.cp > 1:
        found.append(f"attention is wrapped in DistributedAttention over groups of {plan.cp} ranks")
    if plan.ep > 1:
        found.append(f"expert layers are made with ep_size={plan.ep}")
    if plan.optimizer_offload == "nvme":
        found.append("NVME_PATH in the file is a folder on a local NVMe drive of every node")
    return found
