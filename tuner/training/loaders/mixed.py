"""Mixed and small accelerators: AMP's real trials (facts cited, arXiv 2210.07297) and Sailor's validation runs (MIT)."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path

from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.training import ParallelPlan, TrainingCase, TrainingModel, TrainingPool
from tuner.training.checks import check
from tuner.training.loaders.rows import Row, Table, number, records, whole

_GPT2 = TrainingModel(
    layers=24, hidden=1024, heads=16, kv_heads=16, ffn=4096, vocab=52256, seq=1024, head_dim=64
)  # fmt: skip
_BLOCKS = 30  # of the pipeline module: 3 before and 3 after the 24 transformer layers
_EDGE = 3
_G4DN = TrainingPool(gpu="t4", gpus=16, gpus_per_node=4, inter_gb_s=6.25, nic="eth-25")
_P3 = TrainingPool(gpu="v100-sxm2-16gb", gpus=12, gpus_per_node=4, inter_gb_s=1.25, nic="eth-25")
_BOTH = TrainingPool(gpu="t4", gpus=16, gpus_per_node=4, inter_gb_s=1.25, nic="eth-25")  # the slower of each
_G4DN_ONE = TrainingPool(gpu="t4", gpus=4, gpus_per_node=4, inter_gb_s=6.25, nic="eth-25")


# Gradients are reduced in single precision and nothing is recomputed: the launch script and DeepSpeed configuration of
# the AMP repository say so.
_AMP = "node order P3, P3, P3, G4dn; no recomputation, fp32 gradient reduction; the uneven GAN model is not scored"


def amp(path: Path) -> Table:
    """16 accelerators on EC2. Trials out of memory or time have no measurement; they are listed, not scored."""
    table = Table("amp", assumed=_AMP)
    for line, record in records(path):
        experiment = record["experiment"]
        try:
            measured = float(record["measured_s(inf=OOM/timeout)"])
            if not math.isfinite(measured):
                table.drop(line, "inf: out of memory or timeout")
                continue
            if experiment == "het_model":
                table.drop(line, "a GAN with uneven blocks whose shapes are not in the file")
                continue
            case = _amp_case(record, experiment)
            check(case)
        except (TrimtabError, ValueError) as error:
            table.drop(line, str(error))
            continue
        plan = case.plan
        table.rows.append(Row(line=line, case=case, size=experiment, pattern=f"{experiment} t{plan.tp}d{plan.dp}p{plan.pp}",
                              iteration_s=measured))  # fmt: skip
    return table


def _amp_case(record: dict[str, str], experiment: str) -> TrainingCase:
    tp, dp, pp = (whole(record, name) for name in ("tp", "dp", "pp"))
    cuts = json.loads(record["layer_partition"])
    if not isinstance(cuts, list) or len(cuts) != pp + 1 or cuts[-1] != _BLOCKS:
        raise InvalidSpec("is no partition of the blocks", field="layer_partition", value=str(cuts)[:60])
    inner = [min(max(int(cut) - _EDGE, 0), _GPT2.layers) for cut in cuts]
    layers = tuple(after - before for before, after in pairwise(inner))
    pools: tuple[TrainingPool, ...] = (_G4DN,)
    places: tuple[int, ...] = ()
    if experiment == "het_cluster":
        pools = (_P3, _G4DN_ONE, _BOTH)
        places = tuple(_place(stage * tp * dp, (stage + 1) * tp * dp) for stage in range(pp))
    return TrainingCase(
        model=_GPT2,
        pools=pools,
        stage_pools=places,
        plan=ParallelPlan(
            tp=tp, dp=dp, pp=pp, micro_batch=whole(record, "micro_batch"), global_batch=32, precision="fp16",
            framework="megatron-deepspeed", attention="unfused", gradient_bytes=4,
            layers_per_stage=layers,
        ),
    )  # fmt: skip


def _place(first: int, end: int) -> int:
    """The pool of ranks `first` to `end`: P3 nodes come first; a stage on both kinds goes at the slower side's pace."""
    if end <= _P3.gpus:
        return 0
    return 1 if first >= _P3.gpus else 2


_SAILOR_MODELS = {
    "OPT-350M": TrainingModel(layers=24, hidden=1024, heads=16, kv_heads=16, ffn=4096, vocab=50272, seq=2048, head_dim=64, dropout=False),
    "GPT-Neo-2.7B": TrainingModel(
        layers=32, hidden=2560, heads=20, kv_heads=20, ffn=10240, vocab=50257, seq=2048, head_dim=128, dropout=False
    ),
}  # fmt: skip
_SAILOR_GPUS = {"GH-96": "gh200-96gb", "RTX-3090": "rtx-3090", "RTX-2080": "rtx-2080", "Titan-RTX": "titan-rtx"}
_MIT_GB_S = 0.125  # 1 Gb/s: what the gradient synchronisation times of the replicated runs amount to
_SLOWEST_FIRST = ("RTX-2080", "Titan-RTX", "RTX-3090", "GH-96")


def sailor(path: Path) -> Table:
    """GH200 nodes of 4 with Slingshot, and a mixed workstation cluster. Layer counts include embedding and head. The
    memory is what the driver reports for the accelerator, allocator cache and all."""
    table = Table("sailor", assumed="TF32 matrix products on fp32 tensors, Adam, no dropout, unfused attention")
    for line, record in records(path):
        if record["flag"]:
            table.drop(line, record["flag"])
            continue
        try:
            case = _sailor_case(record)
            check(case)
            seconds, peak = number(record, "iter_time_s"), number(record, "max_mem_bytes")
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        plan = case.plan
        table.rows.append(Row(line=line, case=case, size=record["model"],
                              pattern=f"{record['cluster']} t{plan.tp}d{plan.dp}p{plan.pp}", iteration_s=seconds,
                              memory_bytes=peak, whole_process=True))  # fmt: skip
    return table


def _sailor_case(record: dict[str, str]) -> TrainingCase:
    model = _SAILOR_MODELS[record["model"]]
    pp = whole(record, "pp")
    dp = int(record["dp"].split("/")[0])
    stages = [part.split("+") for part in record["gpus_per_stage(GPUxTP per DP replica)"].split(" | ")]
    found = [[re.fullmatch(r"([A-Za-z0-9-]+?)x(\d+)", replica.strip()) for replica in stage] for stage in stages]
    kinds, tp = [], 1
    for stage in found:
        names = []
        for match in stage:
            if match is None or match[1] not in _SAILOR_GPUS:
                raise InvalidSpec("names no known accelerator", field="gpus_per_stage", value=str(stages)[:60])
            names.append(match[1])
            tp = int(match[2])
        kinds.append(min(names, key=_SLOWEST_FIRST.index))
    layers = [int(part) for part in record["layers_per_stage"].split("/")]
    layers[0] -= 1
    layers[-1] -= 1
    used = sorted(set(kinds))
    big = record["cluster"] == "clariden"
    per_node = 4 if big else 8
    pools = tuple(
        TrainingPool(
            gpu=_SAILOR_GPUS[name], gpus=tp * dp * pp, gpus_per_node=per_node,
            nic="slingshot-11-200" if big else "eth-10", nics_per_node=4 if big else 1,
            inter_gb_s=None if big else _MIT_GB_S,
        )
        for name in used
    )  # fmt: skip
    return TrainingCase(
        model=model,
        pools=pools,
        stage_pools=tuple(used.index(name) for name in kinds),
        plan=ParallelPlan(
            tp=tp, dp=dp, pp=pp, micro_batch=whole(record, "mbs"), global_batch=whole(record, "gbs"),
            precision="tf32" if big else "fp32", framework="eager", attention="unfused",
            layers_per_stage=tuple(layers),
        ),
    )  # fmt: skip
