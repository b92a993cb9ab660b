"""Plans in the words of Megatron-LM, torchtitan and DeepSpeed: what is said, what is refused, what their parsers accept."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.model.errors import UnknownName, Unsupported
from controlplane.model.launch import LaunchPlan, ParallelSettings
from controlplane.model.training import ParallelPlan, TrainingCase
from tuner.training.planner import read_question
from tuner.training.planner.exports import launch_of, launch_plan, shell
from tuner.training.question import parse_case

LLAMA_8B = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 128256, "seq": 8192,
            "gated": True}  # fmt: skip
POOL = {"gpu": "h100", "gpus": 64, "gpus_per_node": 8, "nic": "ndr", "nics_per_node": 8}


def case(model: dict[str, Any] | None = None, pools: Any = None, **plan: Any) -> TrainingCase:
    """Llama 3 8B on 64 H100 unless told otherwise."""
    return parse_case({"model": model or LLAMA_8B, "cluster": pools or POOL, "global_batch": 128, **plan})


def said(target: str, asked: TrainingCase) -> list[str]:
    return list(launch_of(target, asked, asked.plan).arguments)


FSDP: dict[str, Any] = {"framework": "fsdp", "zero": 3, "tp": 2, "pp": 4, "dp": 8, "sp": True, "micro_batch": 2}
ENGINE: dict[str, Any] = {"framework": "megatron-deepspeed", "zero": 3, "tp": 2, "dp": 32, "micro_batch": 2}


def test_torchtitan_is_told_every_part_of_a_plan() -> None:
    arguments = said("torchtitan", case(**FSDP, recompute="full"))
    assert {
        "--module llama3", "--config llama3_8b", "--parallelism.data_parallel_shard_degree 8",
        "--parallelism.tensor_parallel_degree 2", "--parallelism.pipeline_parallel_degree 4",
        "--parallelism.pipeline_parallel_schedule 1F1B", "--parallelism.pipeline_parallel_microbatch_size 2",
        "--parallelism.fsdp_reshard_after_forward always", "--training.local_batch_size 16",
        "--training.global_batch_size 128", "--training.seq_len 8192", "--training.disable_cuda_graphs",
    } <= set(arguments)  # fmt: skip
    assert arguments[-1] == "activation-checkpoint:full"


def test_megatron_sums_gradients_in_the_format_that_was_costed() -> None:
    wide = "--accumulate-allreduce-grads-in-fp32"
    assert wide in said("megatron", case(tp=8, dp=8, precision="fp16"))
    assert wide not in said("megatron", case(tp=8, dp=8, precision="fp16", gradient_bytes=2))
    assert wide not in said("megatron", case(tp=8, dp=8))  # it does so beside bf16
    fork = case(tp=8, dp=8, framework="megatron-zero-bubble", precision="fp16")
    assert wide in said("zero-bubble", fork)


def test_torchtitan_gets_the_modules_of_every_chunk() -> None:
    def parts(**plan: Any) -> list[list[str]]:
        line = next(item for item in said("torchtitan", case(**{**FSDP, **plan})) if "module_fqns" in item)
        return [part.split(",") for part in line.split()[1:]]

    even = parts(vpp=2)
    assert [len(part) for part in even] == [5, 4, 4, 4, 4, 4, 4, 6]
    assert even[0][0] == "tok_embeddings"
    assert even[-1][-2:] == ["norm", "lm_head"]
    layers = [name for part in even for name in part if name.startswith("layers.")]
    assert layers == [f"layers.{index}" for index in range(32)]
    uneven = parts(layers_per_stage=[5, 9, 9, 9])
    assert [sum(name.startswith("layers.") for name in part) for part in uneven] == [5, 9, 9, 9]


def test_torchtitan_replicates_where_nothing_is_sharded() -> None:
    arguments = said("torchtitan", case(framework="fsdp", zero=0, tp=8, dp=8, sp=False))
    assert "--parallelism.data_parallel_replicate_degree 8" in arguments
    assert "--parallelism.data_parallel_shard_degree 1" in arguments
    assert "--parallelism.no-enable_sequence_parallel" in arguments


def test_deepspeed_gets_batch_sharding_and_tensor_parallelism_in_its_file() -> None:
    asked = case(**ENGINE, recompute="full")
    launch = launch_of("deepspeed", asked, asked.plan)
    config = json.loads(launch.files["deepspeed.json"])
    assert "train_batch_size" not in config  # checked against all ranks, tensor parallel ones among them
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * 32 == 128
    assert config["zero_optimization"]["stage"] == 3
    assert config["tensor_parallel"] == {"autotp_size": 2}
    assert config["bf16"] == {"enabled": True}
    assert any("checkpoints every layer" in note for note in launch.notes)
    assert launch.program[1:3] == ("--num_nodes 8", "--num_gpus 8")


def test_deepspeed_leaves_stages_to_the_code_and_says_so() -> None:
    asked = case(framework="megatron-deepspeed", zero=1, pp=4, dp=16, recompute="full")
    notes = " ".join(launch_of("deepspeed", asked, asked.plan).notes)
    assert "num_stages=4" in notes
    assert "activation_checkpoint_interval=1" in notes


@pytest.mark.parametrize(
    ("target", "plan", "field"),
    [
        ("torchtitan", {**FSDP, "framework": "megatron-lm"}, "framework"),
        ("torchtitan", {**FSDP, "zero": 1}, "zero"),
        ("torchtitan", {**FSDP, "recompute": "selective"}, "recompute"),
        ("torchtitan", {**FSDP, "precision": "fp8"}, "precision"),
        ("torchtitan", {**FSDP, "schedule": "zb-h1"}, "schedule"),
        ("torchtitan", {**FSDP, "vocab_parallel": "vocab-2"}, "vocab_parallel"),
        ("torchtitan", {**FSDP, "overlap_tp": True}, "overlap_tp"),
        ("torchtitan", {**FSDP, "attention": "unfused"}, "attention"),
        ("torchtitan", {"framework": "fsdp", "zero": 0, "cp": 2, "dp": 32}, "zero"),
        ("deepspeed", {**ENGINE, "framework": "fsdp"}, "framework"),
        ("deepspeed", {**ENGINE, "pp": 2, "dp": 16}, "zero"),
        ("deepspeed", {**ENGINE, "zero": 1, "pp": 2, "dp": 16}, "tp"),
        ("deepspeed", {**ENGINE, "zero": 1, "tp": 1, "pp": 2, "vpp": 2, "dp": 32}, "schedule"),
        ("deepspeed", {**ENGINE, "sp": True}, "sp"),
        ("deepspeed", {**ENGINE, "precision": "fp8"}, "precision"),
        ("deepspeed", {**ENGINE, "cp": 2, "dp": 16}, "cp_mode"),
        ("deepspeed", {**ENGINE, "cp": 2, "dp": 16, "cp_mode": "ulysses"}, "tp"),
        ("deepspeed", {**ENGINE, "zero": 1, "tp": 1, "cp": 2, "pp": 2, "dp": 16, "cp_mode": "ulysses"}, "pp"),
        ("deepspeed", {**ENGINE, "zero": 0, "tp": 1, "pp": 4, "dp": 16, "layers_per_stage": [5, 9, 9, 9]},
         "layers_per_stage"),
        ("megatron", {**FSDP}, "framework"),
        ("megatron", {"tp": 2, "pp": 4, "dp": 8, "schedule": "zb-h1"}, "schedule"),
        ("megatron", {"pp": 4, "dp": 16, "vocab_parallel": "vocab-2"}, "vocab_parallel"),
        ("megatron", {"dp": 64, "zero": 3, "secondary_group": 8}, "secondary_group"),
    ],
)  # fmt: skip
def test_what_a_framework_has_no_word_for_is_refused_by_name(target: str, plan: dict[str, Any], field: str) -> None:
    asked = case(**plan)
    with pytest.raises(Unsupported) as error:
        launch_of(target, asked, asked.plan)
    assert error.value.field == field
    assert error.value.limit or error.value.hint


def test_megatron_is_told_of_sharding_offload_exchange_and_unequal_stages() -> None:
    assert {
        "--use-megatron-fsdp", "--data-parallel-sharding-strategy optim_grads_params", "--ckpt-format fsdp_dtensor",
    } <= set(said("megatron", case(dp=64, zero=3)))  # fmt: skip
    exchanged = said("megatron", case(dp=32, cp=2, zero=1, cp_mode="ulysses", optimizer_offload="cpu"))
    assert {"--cp-comm-type a2a", "--optimizer-cpu-offload"} <= set(exchanged)
    partial = said("megatron", case(dp=64, zero=1, recompute="full", recompute_layers=3))
    assert {"--recompute-method block", "--recompute-num-layers 3"} <= set(partial)
    uneven = said("megatron", case(pp=4, dp=16, layers_per_stage=[5, 9, 9, 9]))
    assert "--pipeline-model-parallel-layout 'Et*5|t*9|t*9|t*9L'" in uneven


def test_megatron_is_told_of_missing_biases_and_grouped_experts() -> None:
    plan = {"tp": 2, "dp": 32, "sp": True, "zero": 1}
    assert {"--swiglu", "--disable-bias-linear"} <= set(said("megatron", case(**plan)))
    gpt = {**LLAMA_8B, "gated": False, "kv_heads": 32}
    assert "--disable-bias-linear" not in said("megatron", case(gpt, **plan))
    mixture = {**LLAMA_8B, "experts": 8, "top_k": 2}
    asked = case(mixture, **plan, ep=8)
    assert {"--moe-grouped-gemm", "--disable-bias-linear"} <= set(said("megatron", asked))
    notes = " ".join(launch_of("megatron", asked, asked.plan).notes)
    for word in ("--normalization RMSNorm", "--add-qkv-bias", "--qk-layernorm", "--moe-router-score-function sigmoid"):
        assert word in notes


SMALL = "layers=8,hidden=1024,heads=8,vocab=32000"


@pytest.mark.parametrize(
    ("gpu", "asked", "field", "says"),
    [
        ("v100-32", {"precision": "bf16"}, "precision", "fp16"),
        ("t4", {"precision": "bf16", "framework": "fsdp"}, "precision", "fp16"),
        ("v100-32", {"fix": ("attention=flash",)}, "attention", "unfused"),
        ("gaudi-2", {}, "framework", "megatron-deepspeed"),
        ("gaudi-3", {"framework": "fsdp"}, "framework", "megatron-deepspeed"),
        ("mi300x", {"framework": "megatron-zero-bubble"}, "framework", "megatron-lm"),
    ],
)
def test_what_an_accelerator_cannot_start_is_refused(gpu: str, asked: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(Unsupported) as error:
        read_question(SMALL, {"gpu": gpu, "gpus": 8}, global_batch=64, seq=1024, **asked)
    assert error.value.field == field
    assert says in f"{error.value.limit} {error.value.hint}"


def test_an_accelerator_s_own_precision_and_kernel_are_taken_unless_told() -> None:
    def chosen(gpu: str, **asked: Any) -> tuple[str, str]:
        plan = read_question(SMALL, {"gpu": gpu, "gpus": 8}, global_batch=64, seq=1024, **asked).case.plan
        return plan.precision, plan.attention

    assert chosen("v100-32") == ("fp16", "unfused")
    assert chosen("v100-32", framework="fsdp") == ("fp16", "flash")
    assert chosen("a100") == ("bf16", "flash")
    assert chosen("gaudi-2", framework="megatron-deepspeed") == ("bf16", "flash")


def test_a_plan_that_its_accelerators_cannot_start_has_no_launch() -> None:
    asked = case(pools={**POOL, "gpu": "v100-32"}, dp=64, zero=1)
    with pytest.raises(Unsupported, match="bf16"):
        launch_of("megatron", asked, asked.plan)
    assert launch_plan(asked, asked.plan).launch is None
    narrow = case(pools={**POOL, "gpu": "v100-32"}, dp=64, zero=1, precision="fp16", attention="unfused")
    assert "--fp16" in said("megatron", narrow)


def test_an_unknown_framework_is_told_the_known_ones() -> None:
    asked = case(**FSDP)
    with pytest.raises(UnknownName, match="deepspeed"):
        launch_of("megatrom", asked, asked.plan)


def test_the_command_is_one_that_a_shell_reads() -> None:
    asked = case(tp=8, dp=8, sp=True, zero=1)
    lines = shell(launch_of("megatron", asked, asked.plan)).split("\n")
    words = shlex.split(" ".join(line.rstrip("\\") for line in lines if not line.startswith("#")))
    assert words[:2] == ["CUDA_DEVICE_MAX_CONNECTIONS=1", "torchrun"]
    assert "--node_rank" in words
    assert words[words.index("--tensor-model-parallel-size") + 1] == "8"


# ---- the plan as the operator renders it


def test_a_plan_survives_its_json_and_names_every_field_of_the_floor_s_plan() -> None:
    asked = case(**FSDP, layers_per_stage=[5, 9, 9, 9])
    plan = launch_plan(asked, asked.plan)
    again = LaunchPlan.model_validate_json(plan.model_dump_json(by_alias=True))
    assert again == plan
    assert again.parallel.plan() == asked.plan
    assert set(ParallelSettings.model_fields) == {item.name for item in fields(ParallelPlan)}
    assert [stage.layers for stage in plan.stages] == [5, 9, 9, 9]
    assert plan.launch is not None
    assert plan.launch.framework == "torchtitan"


def test_a_plan_that_nothing_launches_has_no_launch() -> None:
    asked = case(**{**FSDP, "schedule": "zb-h1"})
    assert launch_plan(asked, asked.plan).launch is None


def test_ranks_of_two_pools_sit_on_nodes_of_their_own_pool() -> None:
    pools = [{**POOL, "gpus": 32}, {"gpu": "a100", "gpus": 16, "gpus_per_node": 4, "nic": "hdr", "nics_per_node": 4}]
    asked = case(pools=pools, tp=4, pp=3, dp=4, zero=1, stage_pools=[0, 0, 1])
    plan = launch_plan(asked, asked.plan)
    assert [stage.accelerator for stage in plan.stages] == ["h100-sxm-80gb", "h100-sxm-80gb", "a100-sxm-80gb"]
    assert [(run.pool, run.first_rank, run.ranks, run.first_node, run.per_node) for run in plan.rank_map] == [
        ("h100-sxm-80gb", 0, 32, 0, 8), ("a100-sxm-80gb", 32, 16, 0, 4),
    ]  # fmt: skip
    assert plan.launch is not None
    assert "--nproc_per_node RANKS_OF_THE_NODE" in plan.launch.program
    assert plan.launch.notes[:2] == (
        "nodes 0 to 3 of the launch: pool h100-sxm-80gb", "nodes 4 to 7 of the launch: pool a100-sxm-80gb",
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"rankMap": [{"pool": "a", "firstRank": 0, "ranks": 63, "firstNode": 0, "perNode": 8}]},
        {"rankMap": [{"pool": "a", "firstRank": 1, "ranks": 64, "firstNode": 0, "perNode": 8}]},
        {"stages": []},
        {"parallel": {"tp": 1 << 30}},
        {"parallel": {"pp": 2, "dp": 32}},
    ],
)
def test_a_plan_that_does_not_add_up_is_refused(change: dict[str, Any]) -> None:
    asked = case(dp=64, zero=1)
    plan = json.loads(launch_plan(asked, asked.plan).model_dump_json(by_alias=True))
    LaunchPlan.model_validate(plan)
    with pytest.raises(ValidationError):
        LaunchPlan.model_validate({**plan, **change})


# ---- the frameworks' own parsers, where they are installed


def words(arguments: list[str]) -> list[str]:
    return shlex.split(" ".join(arguments))


@pytest.mark.parametrize(
    "plan",
    [FSDP, {**FSDP, "vpp": 2}, {**FSDP, "recompute": "operators", "layers_per_stage": [5, 9, 9, 9]},
     {"framework": "fsdp-compiled", "zero": 2, "tp": 4, "dp": 8, "cp": 2, "sp": True, "overlap_tp": True},
     {"framework": "fsdp", "zero": 0, "tp": 8, "dp": 8, "recompute": "full"}],
)  # fmt: skip
def test_torchtitan_s_parser_reads_what_was_meant(plan: dict[str, Any]) -> None:
    config = pytest.importorskip("torchtitan.config", reason="torchtitan is not installed here")
    asked = case(**plan)
    found = config.ConfigManager().parse_args(words(said("torchtitan", asked)))
    parallel, meant = found.parallelism, asked.plan
    degrees = (parallel.tensor_parallel_degree, parallel.pipeline_parallel_degree, parallel.context_parallel_degree)
    assert degrees == (meant.tp, meant.pp, meant.cp)
    assert parallel.data_parallel_shard_degree * parallel.data_parallel_replicate_degree == meant.dp
    assert parallel.enable_sequence_parallel == meant.sp or meant.tp == 1
    assert (found.training.global_batch_size, found.training.seq_len) == (128, 8192)
    if meant.pp > 1:
        assert len(parallel.module_fqns_per_model_part) == meant.pp * meant.vpp


@pytest.mark.parametrize(
    "plan",
    [ENGINE, {**ENGINE, "tp": 1, "dp": 64, "optimizer_offload": "cpu", "secondary_group": 8},
     {"framework": "megatron-deepspeed", "zero": 1, "pp": 4, "dp": 16},
     {"framework": "eager", "zero": 2, "dp": 64, "precision": "fp16"},
     {"framework": "megatron-deepspeed", "zero": 3, "dp": 32, "cp": 2, "cp_mode": "ulysses"}],
)  # fmt: skip
def test_deepspeed_s_configuration_accepts_the_file(plan: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("deepspeed.runtime.config", reason="DeepSpeed is not installed here")
    asked = case(**plan)
    # A pipeline, as a mesh of data and sequence parallel ranks, tells how many replicas there are; else all ranks count.
    replicas = asked.plan.dp if asked.plan.pp * asked.plan.cp > 1 else asked.plan.ranks
    monkeypatch.setattr(module.dist, "get_rank", lambda *_: 0)
    monkeypatch.setattr(module.dist, "get_world_size", lambda *_: replicas)
    mesh = SimpleNamespace(get_group=lambda mesh_dim: mesh_dim)
    file = json.loads(launch_of("deepspeed", asked, asked.plan).files["deepspeed.json"])
    found = module.DeepSpeedConfig(file, mesh_device=mesh)
    assert found.gradient_accumulation_steps == asked.plan.micro_batches
    assert found.zero_config.stage == asked.plan.zero
    assert found.tensor_parallel_config.autotp_size in (asked.plan.tp, 0)


@pytest.mark.parametrize(
    "plan",
    [{"tp": 8, "dp": 8, "sp": True, "zero": 1, "overlap_dp": True}, {"pp": 4, "vpp": 2, "tp": 2, "dp": 8},
     {"tp": 2, "pp": 2, "dp": 16, "recompute": "full", "precision": "fp8"},
     {"pp": 4, "dp": 16, "layers_per_stage": [5, 9, 9, 9]}, {"dp": 64, "zero": 3},
     {"dp": 32, "cp": 2, "zero": 1, "cp_mode": "ulysses", "optimizer_offload": "cpu", "recompute": "full",
      "recompute_layers": 3}],
)  # fmt: skip
def test_megatron_s_parser_reads_what_was_meant(plan: dict[str, Any]) -> None:
    module = pytest.importorskip("megatron.training.arguments", reason="Megatron-LM is not installed here")
    asked = case(**plan)
    parser = module.add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False))
    found = parser.parse_args(words(said("megatron", asked)))
    assert found.tensor_model_parallel_size == asked.plan.tp
    assert found.pipeline_model_parallel_size == asked.plan.pp
    assert (found.micro_batch_size, found.global_batch_size) == (asked.plan.micro_batch, 128)


def test_a_replaced_plan_is_exported_not_the_case_s_own() -> None:
    asked = case(dp=64, zero=1)
    plan = replace(asked.plan, tp=8, dp=8, sp=True)
    assert "--tensor-model-parallel-size 8" in launch_of("megatron", asked, plan).arguments
    assert launch_plan(asked, plan).parallel.tp == 8
