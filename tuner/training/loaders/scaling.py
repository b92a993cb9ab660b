"""Small tables, never fitted: Llama 3 405B (arXiv 2407.21783), 530B with and without data parallelism (2205.05198),
GPT on V100 (DLPerf, Apache-2.0)."""

from __future__ import annotations

import re
from pathlib import Path

from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.training import ParallelPlan, TrainingCase, TrainingModel, TrainingPool
from tuner.training.checks import check
from tuner.training.flops import model_flops
from tuner.training.loaders.megatron import OF_2021
from tuner.training.loaders.rows import Row, Table, number, records, whole

_LLAMA = (126, 16384, 128, 8, 53248, 128256)
_LLAMA_STAGES = 16


def llama3(path: Path) -> Table:
    """405B on 8192 and 16384 H100, with context parallelism in one row."""
    table = Table("llama3", assumed="one layer per chunk, micro-batch 1, no recomputation, causal operations in TFLOPS")
    layers, hidden, heads, groups, ffn, vocab = _LLAMA
    for line, record in records(path):
        try:
            gpus, dp, pp = (whole(record, name) for name in ("gpus", "dp", "pp"))
            if pp != _LLAMA_STAGES:
                raise InvalidSpec("unknown split of layers", field="pp", value=pp, limit=str(_LLAMA_STAGES))
            each = (layers + 2) // pp
            case = TrainingCase(
                model=TrainingModel(layers=layers, hidden=hidden, heads=heads, kv_heads=groups, ffn=ffn, vocab=vocab,
                                    seq=whole(record, "seq"), head_dim=hidden // heads, gated=True, tied=False,
                                    dropout=False),
                pools=(TrainingPool(gpu="h100-sxm-80gb", gpus=gpus, gpus_per_node=8, nic="roce-400",
                                    nics_per_node=8),),
                # zero 1: gradients are summed once per iteration, whatever of their memory is shared before.
                plan=ParallelPlan(
                    tp=whole(record, "tp"), cp=whole(record, "cp"), pp=pp, dp=dp, vpp=each, schedule="interleaved",
                    micro_batch=1, global_batch=dp * whole(record, "batch_per_dp"), sp=True, zero=1,
                    layers_per_stage=(each - 1, *(each,) * (pp - 2), each - 1), overlap_dp=True, overlap_pp=True,
                ),
            )  # fmt: skip
            check(case)
            work = model_flops(case.model, case.plan.global_batch, causal=True)
            seconds = work / (gpus * number(record, "tflops_per_gpu") * 1e12)
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        pattern = f"cp{case.plan.cp}"
        table.rows.append(Row(line=line, case=case, size=f"{gpus} GPUs", pattern=pattern, iteration_s=seconds))
    return table


def data_parallel(path: Path) -> Table:
    """530B, selective recomputation with sequence parallelism, one and eight replicas, gradients not overlapped."""
    table = Table("korthikanti_dp", assumed="as in Table 5 of the paper; batch 280 per replica")
    for line, record in records(path):
        try:
            gpus = whole(record, "gpus")
            seconds = number(record, "iter_s")
            case = TrainingCase(
                model=TrainingModel(layers=105, hidden=20480, heads=128, kv_heads=128, ffn=81920, vocab=51200,
                                    seq=2048, head_dim=160),
                pools=(TrainingPool(gpu="a100-sxm-80gb", gpus=gpus, gpus_per_node=8, nic="ib-hdr-200",
                                    nics_per_node=8),),
                plan=ParallelPlan(
                    tp=8, pp=35, dp=gpus // 280, vpp=3, schedule="interleaved", micro_batch=1, global_batch=gpus,
                    recompute="selective", sp=True, attention="unfused", precision="fp16",
                ),
            )  # fmt: skip
            check(case)
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        table.rows.append(Row(line=line, case=case, size="530B", pattern=f"d{gpus // 280}", iteration_s=seconds))
    return table


_CASE = re.compile(r"(?:DP|MP|2D)(?:_PP)?_(\d+)x(\d+)x(\d+)_(\d+)_(\d+)x(\d+)")
_MICRO_BATCHES_IN_PIPELINES = 32


def v100(path: Path) -> Table:
    """Megatron-LM on 4 nodes of 8 V100-16GB, 100 Gb/s InfiniBand: the block with sequences per second."""
    table = Table("v100_gpt", assumed="full recomputation, 16-bit gradients, vocabulary 51200, one NIC per node")
    for line, record in records(path):
        name = record["Test Case"]
        if not name:
            table.drop(line, "repeats a run of the other block in TFLOPS")
            continue
        try:
            found = _CASE.fullmatch(name)
            if found is None:
                raise InvalidSpec("is no known kind of case", field="Test Case", value=name[:60])
            dp, tp, pp, batch, hidden, layers = (int(part) for part in found.groups())
            heads = hidden // 96 if hidden % 96 == 0 else hidden // 64
            case = TrainingCase(
                model=TrainingModel(layers=layers, hidden=hidden, heads=heads, kv_heads=heads, ffn=4 * hidden,
                                    vocab=51200, seq=2048, head_dim=hidden // heads),
                pools=(TrainingPool(gpu="v100-sxm2-16gb", gpus=max(dp * tp * pp, 1), gpus_per_node=8,
                                    nic="ib-edr-100", nics_per_node=1),),
                plan=ParallelPlan(
                    tp=tp, dp=dp, pp=pp, global_batch=batch, recompute="full", attention="unfused", **OF_2021,
                    micro_batch=batch // dp // (_MICRO_BATCHES_IN_PIPELINES if pp > 1 else 1),
                ),
            )  # fmt: skip
            check(case)
            seconds = batch / number(record, "Megatron-LM <br> sequences/sec")
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        pattern = f"t{tp}d{dp}p{pp}"
        table.rows.append(Row(line=line, case=case, size=f"{layers}x{hidden}", pattern=pattern, iteration_s=seconds))
    return table
