"""Small tables of the papers beside their main ones, never fitted: figures of PTD-P (arXiv 2104.04473) read off by a
third party, one layer of Korthikanti et al. (2205.05198), MegaScale's weak scaling and ablation (NSDI 2024)."""

from __future__ import annotations

from pathlib import Path

from controlplane.model.errors import InvalidSpec, TrimtabError
from tuner.training.flops import model_flops
from tuner.training.loaders.megatron import OF_2021, ampere_roce, gpt_shape, megatron_case, selene
from tuner.training.loaders.rows import Row, Table, number, records, whole

_A100_FLOP_PER_S = 312e12
_STAGE_LAYERS = 3  # PTD-P figure 11 grows the model with the pipeline: 3 layers of 20480 per stage
_CHUNK_LAYERS = 2  # of figure 12's interleaved runs


def ptdp_figures(path: Path) -> Table:
    """Figures 11 and 12: pipelines with a growing model, and 175B with and without interleaving. TFLOPS count the
    recomputed forward pass (the paper's equation 3)."""
    table = Table("ptdp_figures", assumed="as Table 1 of the paper, micro-batch 1; read off figures, +-3 TFLOPS")
    for line, record in records(path):
        try:
            tp, pp, gpus = (whole(record, name) for name in ("tp", "pp", "gpus"))
            figure, note = record["figure"], record["note"]
            if figure == "fig11":
                model, vpp = gpt_shape(_STAGE_LAYERS * pp, 20480, 128, seq=2048, vocab=51200), 1
            elif figure == "fig12":
                model = gpt_shape(96, 12288, 96, seq=2048, vocab=51200)
                vpp = model.layers // pp // _CHUNK_LAYERS if note == "interleaved" else 1
            else:
                raise InvalidSpec("is no known figure", field="figure", value=figure[:40], limit="fig11, fig12")
            batch = whole(record, "global_batch")
            case = megatron_case(model, selene(gpus), tp=tp, pp=pp, dp=gpus // tp // pp, vpp=vpp, micro_batch=1,
                             global_batch=batch, recompute="full", attention="unfused", **OF_2021)  # fmt: skip
            layers, hidden = model.layers, model.hidden
            work = 96.0 * batch * model.seq * layers * hidden**2 * (
                1.0 + model.seq / (6.0 * hidden) + model.vocab / (16.0 * layers * hidden)
            )  # fmt: skip
            seconds = work / (gpus * number(record, "tflops_per_gpu_approx") * 1e12)
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        table.rows.append(Row(line=line, case=case, size=figure, pattern=f"p{pp}v{vpp}", iteration_s=seconds))
    return table


_MODES = {
    "baseline no recompute": ("none", False), "sequence parallelism": ("none", True),
    "baseline full recompute": ("full", False), "selective recompute": ("selective", False),
    "selective+sequence": ("selective", True),
}  # fmt: skip


def layer_table(path: Path) -> Table:
    """Forward and backward of one layer of 22B, tensor parallel over 8, four sequences at once."""
    table = Table("korthikanti_layer", assumed="unfused attention, fp16; one layer alone")
    for line, record in records(path):
        try:
            if record["experiment"] not in _MODES:
                raise InvalidSpec("is no known mode", field="experiment", value=record["experiment"][:40])
            recompute, sp = _MODES[record["experiment"]]
            case = megatron_case(gpt_shape(48, 6144, 64, seq=2048, vocab=51200), selene(8), tp=8, pp=1, dp=1,
                             micro_batch=4, global_batch=4, recompute=recompute, sp=sp, attention="unfused",
                             precision="fp16")  # fmt: skip
            seconds = number(record, "combined_ms") / 1e3
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        table.rows.append(Row(line=line, case=case, size="22B", pattern=record["experiment"], layer_s=seconds))
    return table


def megascale_weak(path: Path) -> Table:
    """530B on 2240 to 11200 accelerators; only rows of Megatron-LM."""
    table = Table("megascale_weak", assumed="tp 8, pp 35, micro-batch 1, selective recomputation, 8 x 200 Gb/s")
    for line, record in records(path):
        if record["system"] != "Megatron-LM":
            table.drop(line, f"system {record['system']}: parallel transformer block and own kernels")
            continue
        try:
            gpus = whole(record, "gpus")
            model = gpt_shape(105, 20480, 128, seq=2048, vocab=64000)
            case = megatron_case(model, ampere_roce(gpus), tp=8, pp=35, dp=gpus // 280, vpp=3, micro_batch=1,
                             global_batch=gpus, recompute="selective", sp=True, attention="unfused",
                             overlap_pp=True)  # fmt: skip
            share = number(record, "mfu_pct") / 100.0
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        seconds = model_flops(model, gpus) / (gpus * _A100_FLOP_PER_S * share)
        table.rows.append(Row(line=line, case=case, size=f"{gpus} GPUs", pattern="t8p35v3", iteration_s=seconds))
    return table


def megascale_ablation(path: Path) -> Table:
    """175B on 256 accelerators, batch 256: the step that nothing was changed in."""
    table = Table("megascale_ablation", assumed="as Table 2 of the paper")
    for line, record in records(path):
        if record["step"] != "baseline":
            table.drop(line, f"step {record['step']}: changes of the model and of kernels that are not in Megatron-LM")
            continue
        try:
            model = gpt_shape(96, 12288, 96, seq=2048, vocab=64000)
            case = megatron_case(model, ampere_roce(256), tp=8, pp=8, dp=4, vpp=6, micro_batch=1, global_batch=256,
                             recompute="selective", sp=True, attention="unfused", overlap_pp=True)  # fmt: skip
            share = number(record, "mfu_pct") / 100.0
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        seconds = model_flops(model, 256) / (256 * _A100_FLOP_PER_S * share)
        table.rows.append(Row(line=line, case=case, size="256 GPUs", pattern="t8p8v6", iteration_s=seconds))
    return table
