"""Megatron-LM tables: PTD-P (arXiv 2104.04473), Korthikanti et al. (2205.05198), MegaScale (NSDI 2024), H100 README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controlplane.model.errors import TrimtabError
from controlplane.model.training import ParallelPlan, TrainingCase, TrainingModel, TrainingPool
from tuner.training.checks import check
from tuner.training.flops import model_flops
from tuner.training.loaders.rows import Row, Table, number, records, whole

# Megatron-LM of 2021 with --fp16, as the paper's scripts call it (examples/academic_paper_scripts/sc21/CONFIG.sh):
# gradients stay in 16 bits where nothing asks for more.
OF_2021: dict[str, Any] = {"framework": "megatron-lm-2021", "precision": "fp16", "gradient_bytes": 2}


def ptdp(path: Path) -> Table:
    """Weak scaling 1.7B to 1T on A100, full recomputation. Times follow from TFLOPS by the paper's equation 3."""
    table = Table("ptdp", assumed="16-bit gradients, fused kernels, unfused attention, scatter-gather between stages")
    for line, record in records(path):
        try:
            pp, layers = whole(record, "pp"), whole(record, "layers")
            chunk = record["layers_per_virtual_stage"]
            vpp = layers // pp // int(float(chunk)) if chunk and pp > 1 else 1
            case = megatron_case(
                _gpt(record, seq=whole(record, "seq"), vocab=whole(record, "vocab")),
                selene(whole(record, "gpus")),
                tp=whole(record, "tp"), pp=pp, dp=whole(record, "dp"), vpp=vpp,
                micro_batch=whole(record, "micro_batch"), global_batch=whole(record, "global_batch"),
                recompute="full", attention="unfused", **OF_2021,
            )  # fmt: skip
            seconds = number(record, "iter_time_s_derived_eq3")
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        table.rows.append(_row(line, case, f"{number(record, 'params_B'):g}B", seconds))
    return table


def korthikanti(path: Path) -> Table:
    """Iteration times without data parallelism: full recomputation, and selective with sequence parallelism."""
    table = Table("korthikanti", assumed="vocabulary 51200, sequence 2048, unfused attention")
    for line, record in records(path):
        for column, recompute, sp in (
            ("iter_s_full_recompute_noSP", "full", False),
            ("iter_s_selective_plus_SP", "selective", True),
        ):
            try:
                case = megatron_case(
                    _gpt(record, seq=2048, vocab=51200), selene(whole(record, "gpus")),
                    tp=whole(record, "tp"), pp=whole(record, "pp"), dp=1, vpp=whole(record, "interleave_m"),
                    micro_batch=whole(record, "micro_batch"), global_batch=whole(record, "global_batch"),
                    recompute=recompute, sp=sp, attention="unfused", precision="fp16",
                )  # fmt: skip
                seconds = number(record, column)
            except TrimtabError as error:
                table.drop(line, str(error))
                continue
            table.rows.append(_row(line, case, record["model"], seconds, recompute))
    return table


def megascale(path: Path) -> Table:
    """Strong scaling of 175B. Only rows of Megatron-LM: the other system changes the model itself."""
    table = Table(
        "megascale",
        assumed="tp 8, pp 8, micro-batch 1, selective recomputation with sequence parallelism, 8 x 200 Gb/s",
    )
    for line, record in records(path):
        if record["system"] != "Megatron-LM":
            table.drop(line, f"system {record['system']}: parallel transformer block and own kernels")
            continue
        try:
            gpus = whole(record, "gpus")
            model = gpt_shape(96, 12288, 96, seq=2048, vocab=64000)
            pool = ampere_roce(gpus)
            case = megatron_case(
                model, pool, tp=8, pp=8, dp=gpus // 64, vpp=6, micro_batch=1,
                global_batch=whole(record, "global_batch"), recompute="selective", sp=True, attention="unfused",
                overlap_pp=True,
            )  # fmt: skip
            seconds = number(record, "iter_time_s")
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        table.rows.append(_row(line, case, f"{gpus} GPUs", seconds))
    return table


_H100 = "micro-batch 1 in pipelines and 4 without, flash attention, sequence parallelism, interleaved with one layer per chunk, overlapped gradients"


def h100_weak(path: Path) -> Table:
    """1.7B to 462B on H100."""
    table = Table("h100_weak", assumed=_H100)
    for line, record in records(path):
        try:
            model = _gpt(record, seq=4096, vocab=131072)
            case = _hopper(model, whole(record, "gpus"), whole(record, "tp"), whole(record, "pp"), record)
            seconds = _from_tflops(case, number(record, "tflops_per_gpu"))
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        table.rows.append(_row(line, case, record["model"], seconds))
    return table


def h100_strong(path: Path) -> Table:
    """177B on 96 to 4608 H100, batch 1152; digitised, +-2 %."""
    table = Table("h100_strong", assumed=f"tp 8, pp 6 as in the weak scaling table; {_H100}")
    for line, record in records(path):
        try:
            model = gpt_shape(96, 12288, 96, seq=4096, vocab=131072)
            case = _hopper(model, whole(record, "gpus"), 8, 6, {"global_batch": "1152"})
            seconds = _from_tflops(case, number(record, "tflops_per_gpu"))
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        table.rows.append(_row(line, case, f"{record['gpus']} GPUs", seconds))
    return table


def _hopper(model: TrainingModel, gpus: int, tp: int, pp: int, record: dict[str, str]) -> TrainingCase:
    pool = TrainingPool(gpu="h100-sxm-80gb", gpus=gpus, gpus_per_node=8, nic="ib-ndr-400", nics_per_node=8)
    dp = gpus // (tp * pp)
    batch = whole(record, "global_batch")
    layers = model.layers // pp
    vpp = max((v for v in range(1, layers + 1) if layers % v == 0), default=1) if pp > 1 else 1
    return megatron_case(
        model, pool, tp=tp, pp=pp, dp=dp, vpp=vpp, micro_batch=1 if pp > 1 else min(4, batch // dp), global_batch=batch,
        sp=tp > 1, zero=1, overlap_dp=True, overlap_tp=tp > 1, overlap_pp=vpp > 1,
    )  # fmt: skip


def _from_tflops(case: TrainingCase, tflops: float) -> float:
    return model_flops(case.model, case.plan.global_batch) / (case.plan.ranks * tflops * 1e12)


def selene(gpus: int) -> TrainingPool:
    """Nodes of 8 A100 with 8 x 200 Gb/s InfiniBand."""
    return TrainingPool(gpu="a100-sxm-80gb", gpus=gpus, gpus_per_node=8, nic="ib-hdr-200", nics_per_node=8)


def ampere_roce(gpus: int) -> TrainingPool:
    """Nodes of 8 A100 with 8 x 200 Gb/s RoCE."""
    return TrainingPool(gpu="a100-sxm-80gb", gpus=gpus, gpus_per_node=8, nic="roce-200", nics_per_node=8)


def _gpt(record: dict[str, str], *, seq: int, vocab: int) -> TrainingModel:
    return gpt_shape(whole(record, "layers"), whole(record, "hidden"), whole(record, "heads"), seq=seq, vocab=vocab)


def gpt_shape(layers: int, hidden: int, heads: int, *, seq: int, vocab: int) -> TrainingModel:
    """A plain GPT."""
    return TrainingModel(
        layers=layers, hidden=hidden, heads=heads, kv_heads=heads, ffn=4 * hidden, vocab=vocab, seq=seq,
        head_dim=hidden // heads,
    )  # fmt: skip


def megatron_case(model: TrainingModel, pool: TrainingPool, *, vpp: int = 1, **plan: Any) -> TrainingCase:
    """A checked run of Megatron-LM, interleaved where it has virtual stages."""
    case = TrainingCase(
        model=model,
        pools=(pool,),
        plan=ParallelPlan(vpp=vpp, schedule="interleaved" if vpp > 1 else "1f1b", **plan),
    )
    check(case)
    return case


def _row(line: int, case: TrainingCase, size: str, seconds: float, note: str = "") -> Row:
    plan = case.plan
    pattern = f"t{plan.tp}p{plan.pp}" + (f"v{plan.vpp}" if plan.vpp > 1 else "")
    return Row(line=line, case=case, size=size, pattern=pattern, iteration_s=seconds, note=note)
