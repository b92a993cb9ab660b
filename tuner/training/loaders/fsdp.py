"""Fully sharded runs: MPT by llm-foundry (Apache-2.0) and Llama 3.1 by torchtitan (BSD-3-Clause)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.training import ParallelPlan, TrainingCase, TrainingModel, TrainingPool
from tuner.training.checks import check
from tuner.training.loaders.rows import Row, Table, number, records, whole

# layers, hidden, heads of the MPT configurations (llm-foundry scripts/train/yamls/pretrain)
_MPT = {
    "125m": (12, 768, 12), "350m": (24, 1024, 16), "760m": (24, 1536, 12), "1b": (24, 2048, 16), "3b": (32, 2560, 20),
    "7b": (32, 4096, 32), "13b": (40, 5120, 40), "30b": (48, 7168, 56), "70b": (80, 8192, 64),
}  # fmt: skip
_GPUS = {"h100_80gb": "h100-sxm-80gb", "a100_80gb": "a100-sxm-80gb", "a100_40gb": "a100-sxm-40gb"}


def mpt(path: Path) -> Table:
    """MPT 125M to 70B; iteration time is global batch over tokens per second."""
    table = Table("fsdp", assumed="flash attention, bf16 gradients, 8 x 200 Gb/s RoCE per node, vocabulary 50368")
    for line, record in records(path):
        try:
            case = _mpt_case(record)
            seconds = number(record, "GlobalBatchSize (T)") / number(record, "Throughput (T/s)")
            check(case)
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        pattern = f"{case.pools[0].gpu}, {'one node' if case.plan.dp <= 8 else 'several nodes'}"
        table.rows.append(Row(line=line, case=case, size=record["Model"], pattern=pattern, iteration_s=seconds,
                              note=f"{record['GPU']} {case.plan.dp}"))  # fmt: skip
    return table


def _mpt_case(record: dict[str, str]) -> TrainingCase:
    if "fp8" in record["Precision"]:
        raise InvalidSpec("8-bit runs of an early library are not modelled", field="Precision",
                          value=record["Precision"])  # fmt: skip
    if record["Model"] not in _MPT or record["GPU"] not in _GPUS:
        raise InvalidSpec("unknown model or accelerator", field="Model", value=record["Model"])
    layers, hidden, heads = _MPT[record["Model"]]
    gpus, micro = whole(record, "# GPUs"), whole(record, "MicroBatchSize")
    return TrainingCase(
        model=TrainingModel(
            layers=layers, hidden=hidden, heads=heads, kv_heads=heads, ffn=4 * hidden, vocab=50368,
            seq=whole(record, "SeqLen (T)"), head_dim=hidden // heads,
        ),
        pools=(
            TrainingPool(gpu=_GPUS[record["GPU"]], gpus=gpus, gpus_per_node=8, nic="roce-200", nics_per_node=8),
        ),
        plan=ParallelPlan(
            dp=gpus, micro_batch=micro, global_batch=micro * whole(record, "GradAccum") * gpus,
            recompute="full" if record["Activation Checkpointing"] == "True" else "none",
            zero=3 if record["Sharding Strategy"] == "FULL_SHARD" else 2, framework="fsdp", gradient_bytes=2,
            overlap_dp=True,
        ),
    )  # fmt: skip


_TITAN_POWER_W = 500.0  # boards that report up to 84.9 GiB are the low-power variant; assumed, not stated
_LLAMA = {
    "8B": (32, 4096, 32, 14336), "70B": (80, 8192, 64, 28672), "405B": (126, 16384, 128, 53248),
}  # fmt: skip


def torchtitan(path: Path) -> Table:
    """Llama 3.1 in bf16 on H100 boards that report more than 80 GB, as one accelerator class of their own."""
    table = Table("torchtitan", assumed="sequence 8192, selective recomputation of single operators where stated")
    for line, record in records(path):
        caption = record["caption"]
        if "Float8" in caption + record["Techniques"] or record["Quantization"].startswith("float8"):
            table.drop(line, "8-bit matrix products: no constants for this precision")
            continue
        try:
            for note, case, per_gpu in _titan_cases(record, caption):
                check(case)
                batch_tokens = case.plan.global_batch * case.model.seq
                seconds = batch_tokens / (per_gpu * case.plan.ranks)
                memory = number(record, "Memory(GiB)") * 2**30 if record["Memory(GiB)"] else None
                pattern = f"t{case.plan.tp}d{case.plan.dp}"
                table.rows.append(Row(line=line, case=case, size=_size(caption), pattern=pattern, iteration_s=seconds,
                                      memory_bytes=memory, note=note))  # fmt: skip
        except TrimtabError as error:
            table.drop(line, str(error))
    return table


def _size(caption: str) -> str:
    found = re.search(r"\b(8|70|405)[Bb]\b", caption)
    if found is None:
        raise InvalidSpec("names no known model", field="caption", value=caption[:60])
    return f"{found[1]}B"


def _titan_cases(record: dict[str, str], caption: str) -> list[tuple[str, TrainingCase, float]]:
    layers, hidden, heads, ffn = _LLAMA[_size(caption)]
    gpus = re.search(r"(\d+) (?:GPUs|H100s)", caption)
    local = re.search(r"[Ll]ocal batch size (\d+)", caption)
    if gpus is None or local is None:
        raise InvalidSpec("states no batch or number of accelerators", field="caption", value=caption[:60])
    tp = re.search(r"TP[= ](\d+)", caption)
    full = re.search(r"full (?:AC|activation)", caption, re.IGNORECASE) is not None
    degree = int(tp[1]) if tp else 1
    dp = int(gpus[1]) // degree
    model = TrainingModel(layers=layers, hidden=hidden, heads=heads, kv_heads=8, ffn=ffn, vocab=128256, seq=8192,
                          head_dim=128, gated=True, tied=False)  # fmt: skip
    pool = TrainingPool(
        gpu="h100-sxm-80gb",
        gpus=int(gpus[1]),
        gpus_per_node=8,
        nic="roce-400",
        nics_per_node=8,
        power_cap_w=_TITAN_POWER_W,
    )
    compiled = "compile" in caption + record["Techniques"]
    plan = ParallelPlan(
        tp=degree, dp=dp, micro_batch=int(local[1]), global_batch=int(local[1]) * dp,
        recompute="full" if full else "operators", zero=3, sp=degree > 1, gradient_bytes=4, overlap_dp=True,
        framework="fsdp-compiled" if compiled else "fsdp",
    )  # fmt: skip
    case = TrainingCase(model=model, pools=(pool,), plan=plan)
    if record["TPS/GPU"]:
        return [(record["Techniques"], case, number(record, "TPS/GPU"))]
    async_case = TrainingCase(model=model, pools=(pool,), plan=replace(plan, overlap_tp=True))
    return [
        ("vanilla TP", case, number(record, "Vanilla TP tokens/sec")),
        ("async TP", async_case, number(record, "Async TP tokens/sec")),
    ]
