"""Pipeline tables: zero-bubble schedules (Qi et al., ICLR 2024) and vocabulary parallelism (arXiv 2411.05288)."""

from __future__ import annotations

from pathlib import Path

from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.training import (
    ParallelPlan,
    Schedule,
    TrainingCase,
    TrainingModel,
    TrainingPool,
    VocabularyParallel,
)
from tuner.training.checks import check
from tuner.training.flops import model_flops
from tuner.training.loaders.rows import Row, Table, number, records, whole

_A100_FLOP_PER_S = 312e12
_SCHEDULES: dict[str, Schedule] = {"1F1B": "1f1b", "1F1B-I": "interleaved", "ZB-1p": "zb-1p", "ZB-2p": "zb-2p"}
_METHODS: dict[str, VocabularyParallel] = {
    "baseline": "none", "redis": "none", "vocab-1": "vocab-1", "vocab-2": "vocab-2", "interlaced": "interlaced",
}  # fmt: skip


def zero_bubble(path: Path) -> Table:
    """Throughput and peak memory of four schedules; the end stages have one layer less."""
    table = Table(
        "zerobubble",
        assumed="vocabulary 50304, unfused attention, fp32 gradients, one layer per chunk when interleaved, GB read as GiB",
    )
    for line, record in records(path):
        try:
            case = _zero_bubble_case(record)
            check(case)
            rate = number(record, "samples_per_gpu_s")
            memory = number(record, "memory_GB") * 2**30
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        plan = case.plan
        seconds = plan.global_batch / (rate * plan.pp)
        table.rows.append(Row(line=line, case=case, size=record["model"], pattern=record["schedule"],
                              iteration_s=seconds, memory_bytes=memory))  # fmt: skip
    return table


def _zero_bubble_case(record: dict[str, str]) -> TrainingCase:
    if record["schedule"] not in _SCHEDULES:
        raise InvalidSpec("unknown schedule", field="schedule", value=record["schedule"][:40])
    schedule = _SCHEDULES[record["schedule"]]
    layers, pp = whole(record, "layers"), whole(record, "gpus_p")
    most = -(-(layers + 2) // pp)
    micro = whole(record, "micro_batch")
    pool = TrainingPool(gpu="a100-sxm-80gb", gpus=pp, gpus_per_node=8, nic="roce-200", nics_per_node=4)
    return TrainingCase(
        model=_gpt(layers, whole(record, "hidden"), whole(record, "heads"), 50304, whole(record, "seq")),
        pools=(pool,),
        plan=ParallelPlan(
            pp=pp, vpp=most if schedule == "interleaved" else 1, schedule=schedule, micro_batch=micro,
            global_batch=micro * whole(record, "num_microbatches"), attention="unfused", precision="fp16",
            layers_per_stage=_short_ends(layers, pp), overlap_pp=False,
        ),
    )  # fmt: skip


def _short_ends(layers: int, pp: int) -> tuple[int, ...]:
    each = (layers + 2) // pp
    if each * pp != layers + 2:
        raise InvalidSpec("layers and two do not divide", field="layers", value=layers, limit=f"a multiple of {pp}")
    return (each - 1, *(each,) * (pp - 2), each - 1)


def vocabulary(path: Path) -> Table:
    """MFU and peak memory of five ways to place the output layer, 8 stages of one node."""
    table = Table("vocab", assumed="flash attention, fp32 gradients, untied embeddings, GB read as GiB")
    for line, record in records(path):
        try:
            case = _vocabulary_case(record)
            check(case)
            share = number(record, "mfu_pct") / 100.0
            memory = number(record, "peak_mem_GB") * 2**30
        except TrimtabError as error:
            table.drop(line, str(error))
            continue
        seconds = model_flops(case.model, case.plan.global_batch) / (case.plan.ranks * _A100_FLOP_PER_S * share)
        size = f"{record['seq']}/{record['vocab']}"
        table.rows.append(Row(line=line, case=case, size=size, pattern=record["method"], iteration_s=seconds,
                              memory_bytes=memory))  # fmt: skip
    return table


def _vocabulary_case(record: dict[str, str]) -> TrainingCase:
    method = record["method"]
    if method not in _METHODS:
        raise InvalidSpec("unknown method", field="method", value=method[:40])
    pp, layers = whole(record, "pp"), whole(record, "layers")
    micro = whole(record, "micro_batch")
    model = _gpt(layers, whole(record, "hidden"), whole(record, "heads"), _kilo(record, "vocab"), _kilo(record, "seq"))
    return TrainingCase(
        model=model,
        pools=(TrainingPool(gpu="a100-sxm-80gb", gpus=pp, gpus_per_node=8),),
        plan=ParallelPlan(
            pp=pp, micro_batch=micro, global_batch=micro * whole(record, "num_microbatches"),
            vocab_parallel=_METHODS[method], layers_per_stage=_redistributed(model, pp) if method == "redis" else (),
        ),
    )  # fmt: skip


def _redistributed(model: TrainingModel, pp: int) -> tuple[int, ...]:
    """Layers moved away from the last stage until the slowest stage is as fast as it can be, by operations."""
    output = model.vocab / (12.0 * model.hidden * (1.0 + model.seq / (6.0 * model.hidden)))
    best = min(range(model.layers // pp + 1), key=lambda n: (max(-(-(model.layers - n) // (pp - 1)), n + output), -n))
    each, extra = divmod(model.layers - best, pp - 1)
    return (*(each + (index >= pp - 1 - extra) for index in range(pp - 1)), best)


def _kilo(record: dict[str, str], name: str) -> int:
    text = record[name]
    if not text.endswith("k") or not text[:-1].isdigit():
        raise InvalidSpec("is not a number of thousands", field=name, value=text[:40])
    return int(text[:-1]) * 1024


def _gpt(layers: int, hidden: int, heads: int, vocab: int, seq: int) -> TrainingModel:
    return TrainingModel(
        layers=layers, hidden=hidden, heads=heads, kv_heads=heads, ffn=4 * hidden, vocab=vocab, seq=seq,
        head_dim=hidden // heads, tied=False,
    )  # fmt: skip
